#!/usr/bin/env bash
# Known vulnerabilities of the pinned packages (pip-audit, PyPI's advisories). Fails on one that has a fix; where the
# advisories can't be had, it says so and fails nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
report=$(mktemp)
trap 'rm -f "$report"' EXIT
timeout "${AUDIT_SECONDS:-60}" .venv/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --timeout 10 \
    --progress-spinner off --format json --output "$report" >/dev/null 2>&1 || true
.venv/bin/python - "$report" <<'PY'
import json, sys

try:
    packages = json.load(open(sys.argv[1]))["dependencies"]
except (ValueError, KeyError):
    sys.exit(print("audit: the advisories can't be reached from here: nothing was audited"))
audited = [package for package in packages if "skip_reason" not in package]
found = [(package, one) for package in audited for one in package["vulns"]]
for package, one in found:
    print(f"audit: {package['name']} {package['version']}: {one['id']}, fixed in {', '.join(one['fix_versions']) or 'none'}")
print(f"audit: {len(audited)} of {len(packages)} packages audited, {len(found)} known vulnerabilities")
if not audited:
    print("audit: the advisories can't be reached from here")
sys.exit(any(one["fix_versions"] for _, one in found))
PY
