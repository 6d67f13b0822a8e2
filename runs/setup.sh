#!/usr/bin/env bash
# Make .venv with the pinned packages: setup.sh PYTHON REQUIREMENT ("." or ".[extras]").
# Without an NVIDIA GPU it takes PyTorch's CPU build, which on Linux lies on PyTorch's own index. Whether that index
# answers is asked once, for two seconds; if it does not, the usual index serves.
set -euo pipefail
python=$1
requirement=$2
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'

"$python" -c "$new_enough" || {
    echo "AsymTalker needs Python 3.11 or newer, this is $("$python" -V 2>&1): run make PYTHON=python3.11" >&2
    exit 2
}
# One that was left half made, by Ctrl-C or for want of ensurepip, is made again.
if ! .venv/bin/python -c "$new_enough" 2>/dev/null || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    "$python" -m venv --clear .venv
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1

# pip install, a line for each package that it fetches.
fetch() {
    .venv/bin/python -m pip install --retries 2 --progress-bar off "$@" | awk '
        /^ *(Downloading|Using cached) .*\(.*B\)/ { n = split($(NF - 2), path, "/"); print "  " path[n], $(NF - 1), $NF; fflush() }
        /^Installing collected packages/ { print "  unpacking them, which takes as long"; fflush() }'
}

answers() {
    .venv/bin/python - <<'PY'
import socket, sys, threading

answered = threading.Event()


def ask():
    try:
        socket.create_connection(("download.pytorch.org", 443), timeout=2).close()
        answered.set()
    except OSError:
        pass


threading.Thread(target=ask, daemon=True).start()  # looking up a name has no time limit of its own
sys.exit(not answered.wait(2))
PY
}

pinned=$(sed -n 's/^torch==//p' constraints.txt)
installed=$(.venv/bin/python -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true)
if [ "${installed%+cpu}" != "$pinned" ] && [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then
    echo "installing PyTorch for the CPU"
    # Alone: what it depends on is pinned to versions of the usual index, which PyTorch's own may lack.
    if ! answers || ! fetch --no-deps --index-url https://download.pytorch.org/whl/cpu "torch==$pinned"; then
        echo "PyTorch comes from the usual index, in its larger build: its own can't be reached from here"
    fi
fi
echo "installing $requirement: 1.4 GB, with all extras 3.4, which takes minutes the first time"
fetch --constraint constraints.txt --editable "$requirement"
