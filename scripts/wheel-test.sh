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
# Every template of the page has to be in the wheel.
port=$("$work/venv/bin/python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$plugin" run --simulate=p5.48xlarge:all-balanced --mig-strategy=mixed --http-address="127.0.0.1:$port" \
	--kubelet-socket= --control-socket= --pod-resources-socket= --ledger-file="$work/ledger.json" 2> "$work/log" &
daemon=$!
trap 'kill "$daemon" || true; wait "$daemon" || true; rm -rf "$work"' EXIT
"$work/venv/bin/python" - "http://127.0.0.1:$port/" << 'EOF' || { cat "$work/log"; exit 1; }
import sys, time, urllib.error, urllib.request
for attempt in range(100):
    try:
        page = urllib.request.urlopen(sys.argv[1], timeout=30).read().decode()
        break
    except urllib.error.HTTPError:
        raise
    except OSError:
        time.sleep(0.1)
else:
    sys.exit("no page")
assert "8 GPUs, 32 MIG devices" in page and "GPU 7" in page and "</html>" in page
print(f"a page of {len(page)} characters")
EOF
echo "the installed wheel works"
