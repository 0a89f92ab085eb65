#!/usr/bin/env bash
# Build the wheel, install it into an empty environment, and use what was installed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work" .
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$work"/*.whl
cd "$work" # away from the sources: only what was installed can be imported
plugin=$work/venv/bin/mig-device-plugin
"$plugin" version
"$plugin" devices --simulate=p5.48xlarge:all-balanced --mig-strategy=mixed | tail -n 3
"$plugin" demo | tail -n 1
echo "the installed wheel works"
