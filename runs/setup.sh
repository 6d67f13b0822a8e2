#!/usr/bin/env bash
# Make .venv with the pinned packages: setup.sh PYTHON REQUIREMENT ("." or ".[extras]").
# Without an NVIDIA GPU it takes PyTorch's CPU build, which on Linux lies on PyTorch's own index. Whether that index
# answers is asked once, for two seconds; if it does not, the usual index serves.
set -euo pipefail
python=$1
requirement=$2

"$python" - <<'PY' || exit 2
import sys
if sys.version_info < (3, 11):
    sys.exit(f"AsymTalker needs Python 3.11 or newer, this is {sys.version.split()[0]}: run make PYTHON=python3.11")
PY
[ -x .venv/bin/python ] || "$python" -m venv .venv
export PIP_DISABLE_PIP_VERSION_CHECK=1
pip=(.venv/bin/python -m pip install --quiet --retries 2 --constraint constraints.txt)

if ! .venv/bin/python -c "import torch" 2>/dev/null; then
    index=()
    if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then
        if .venv/bin/python - <<'PY'
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
        then
            index=(--index-url https://download.pytorch.org/whl/cpu)
        else
            echo "PyTorch's own index does not answer; its build comes from the usual index"
        fi
    fi
    echo "installing PyTorch"
    "${pip[@]}" ${index[@]+"${index[@]}"} torch || "${pip[@]}" torch
fi
echo "installing $requirement"
"${pip[@]}" --editable "$requirement"
