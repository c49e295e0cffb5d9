#!/usr/bin/env bash
# Playwright through the filter against Playwright on the same Chrome directly, alternating in one run: ACTIONS (default 500) actions,
# and MEGABYTES (default 100) of screenshots, ROUNDS (default 5) times. `make bench-cdp` runs it. The client is on this host for both,
# so that no container makes the difference: cdp-proxy → Envoy → server → Chrome, against Chrome.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
programs=$(cd "${PROGRAMS:-$root/target/release}" && pwd)
helpers=${AGENT_CREDS_HELPERS:-$root/target/helpers/bin}
python=$root/target/sdk-venv/bin/python3
work=$(mktemp -d "${TMPDIR:-/tmp}/agent-creds-cdp.XXXXXX")
mkdir -m 700 "$work/state" "$work/run"
export ENVOY_BIN=${ENVOY_BIN:-$("$root/envoy/fetch.sh")} AGENT_CREDS_HELPERS=$helpers
name=bench-cdp-$$
started=()

adev() { (cd "$work/project" && exec "$programs/adev" "$1" --state-dir "$work/state" --runtime-dir "$work/run" "${@:2}"); }
cleanup() {
    trap - EXIT
    adev stop --all >/dev/null 2>&1 || true
    [[ ! -s $work/run/lock ]] || kill "$(head -n 1 "$work/run/lock")" 2>/dev/null || true
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$work"
}
trap cleanup EXIT
wait_for() {
    local deadline=$((SECONDS + 60))
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || { echo "not within a minute: $*" >&2; exit 1; }
        sleep 0.1
    done
}
free_port() { "$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

HOME=$work chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking \
    --remote-debugging-port=0 "--user-data-dir=$work/profile" about:blank >"$work/chromium.log" 2>&1 &
started+=($!)
wait_for test -s "$work/profile/DevToolsActivePort"
chrome=127.0.0.1:$(head -n 1 "$work/profile/DevToolsActivePort")
port=$(free_port) site=$(free_port)

mkdir "$work/project"
printf '[sandbox]\nname = "%s"\nruntime = "runc"\n[[cdp_target]]\nurl = "http://localhost:%s/*"\nport = %s\n' \
    "$name" "$site" "$port" >"$work/project/agent-creds.toml"
AGENT_CREDS_CDP=$chrome adev run -- true >/dev/null 2>&1
gateway=$(docker inspect -f '{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}' "adev-$name")
listener=$(docker inspect -f '{{index .Config.Labels "agent-creds.ports"}}' "adev-$name" | grep -oE '[0-9]+' | head -n 1)
printf '{"version":1,"sandbox":"x","token_prefix":"acm_","strict":false,"upstreams":[],"host":{"address":"%s:%s","cdp_ports":[%s]}}' \
    "$gateway" "$listener" "$port" >"$work/policy.json"
AGENT_CREDS_POLICY=$work/policy.json "$helpers/cdp-proxy" &
started+=($!)
wait_for curl -sf "http://localhost:$port/json/version"

"$python" "$root/benches/cdp.py" "http://$chrome" "http://localhost:$port" "$site" "${ACTIONS:-500}" "${MEGABYTES:-100}" "${ROUNDS:-5}"
