#!/usr/bin/env bash
# The steps of the Dockerfile's target cpu without a container engine, in a clean root made by debootstrap; then its
# health check, as its user: runs/container.sh [FOLDER]. Needs root, debootstrap and a network; 4 GB of disk.
# Of Debian 12, whose Python is 3.11 as the image's.
set -euo pipefail
cd "$(dirname "$0")/.."
root=${1:-$(mktemp -d)/root}
port=${PORT:-7860}
token=$(python3 -c 'import secrets; print(secrets.token_urlsafe())')
mounted=()
server=
finish() {
    [ -z "$server" ] || pkill -f "serve --host 0.0.0.0 --port $port" || true
    [ -z "$server" ] || wait "$server" || true
    for place in "${mounted[@]}"; do umount "$place" || true; done
}
trap finish EXIT
inside() { chroot "$root" /usr/bin/env -i PATH=/opt/asymtalker/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root "$@"; }

if [ ! -x "$root/usr/bin/python3" ]; then
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root" \
        ${DEBIAN:+"$DEBIAN"}
fi
# BIND: folders that are to be seen inside, such as a mirror of packages; PIP_CONF: pip's settings for it.
for place in proc dev ${BIND:-}; do
    mkdir -p "$root/${place#/}"
    mount --bind "/${place#/}" "$root/${place#/}"
    mounted+=("$root/${place#/}")
done
cp /etc/resolv.conf "$root/etc/resolv.conf"
[ -z "${PIP_CONF:-}" ] || cp "$PIP_CONF" "$root/etc/pip.conf"
cp -r /etc/ssl/certs "$root/etc/ssl/" # a proxy's certificates too

# FROM base AS build-cpu
inside python3 -m venv /opt/asymtalker
rm -rf "$root/src" && mkdir -p "$root/src"
cp -r constraints.txt pyproject.toml README.md LICENSE src "$root/src/"
rm -rf "$root"/src/src/*.egg-info
index=(--index-url https://download.pytorch.org/whl/cpu)
inside sh -c "cd /src && grep ^torch== constraints.txt > torch.txt"
inside sh -c "cd /src && pip install --no-cache-dir --no-deps ${index[*]} -r torch.txt" ||
    echo "PyTorch's own index can't be reached: the usual one serves" >&2
inside sh -c 'cd /src && pip install --no-cache-dir --constraint constraints.txt ".[serve]"'

# FROM run
inside sh -c 'id asymtalker >/dev/null 2>&1 || useradd --system --uid 10001 --create-home asymtalker'
inside install -d -o asymtalker -g asymtalker -m 700 /data
inside sh -c '! su asymtalker -s /bin/sh -c "asymtalker serve --host 0.0.0.0 --data /data"' # without a token
inside ASYMTALKER_TOKEN="$token" su asymtalker -s /bin/sh -c \
    "PATH=$(printf /opt/asymtalker/bin:/usr/bin:/bin) exec asymtalker serve --host 0.0.0.0 --port $port --data /data" &
server=$!

# HEALTHCHECK
for _ in $(seq "${PATIENCE:-120}"); do
    sleep 2
    if inside python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/readyz', timeout=4)" 2>/dev/null
    then
        inside python3 -c "
import urllib.request as u
ask = u.Request('http://127.0.0.1:$port/v1/terms', headers={'Authorization': 'Bearer $token'})
print(u.urlopen(ask).read().decode())"
        echo "healthy, as $(ps -o user= -p "$(pgrep -f "serve --host 0.0.0.0 --port $port" | tail -1)")"
        exit 0
    fi
done
echo "it did not become healthy" >&2
exit 1
