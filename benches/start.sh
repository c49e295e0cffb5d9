#!/usr/bin/env bash
# How long a sandbox takes from `adev` to its first command, beside `docker run` of the same image in the same run. Medians of ROUNDS
# (default 7) in milliseconds; `make bench` runs it. The server is running and the images are there; "cold" makes the sandbox (network,
# rules, listener, container), "first" the guard as well, "warm" finds it running.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
rounds=${ROUNDS:-7}
programs=$(cd "${PROGRAMS:-$root/target/release}" && pwd)
image=agent-creds-sandbox
work=$(mktemp -d "${TMPDIR:-/tmp}/agent-creds-start.XXXXXX")
mkdir -m 700 "$work/state" "$work/run"
export ENVOY_BIN=${ENVOY_BIN:-$("$root/envoy/fetch.sh")}

adev() {
    local project=$1 command=$2
    shift 2
    (cd "$project" && exec "$programs/adev" "$command" --state-dir "$work/state" --runtime-dir "$work/run" "$@")
}
cleanup() {
    trap - EXIT
    [[ ! -d $work/p0 ]] || adev "$work/p0" stop --all >/dev/null 2>&1 || true
    [[ ! -s $work/run/lock ]] || kill "$(head -n 1 "$work/run/lock")" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

project() {
    mkdir -p "$work/$1"
    printf '[sandbox]\nname = "bench-%s-%s"\nruntime = "%s"\n[upstream."api.stripe.com"]\n' "$$" "$1" "$2" >"$work/$1/agent-creds.toml"
}
# Milliseconds that a command takes; its output is kept for when it fails.
ms() {
    local begun=${EPOCHREALTIME/[.,]/}
    "$@" >"$work/out" 2>&1 </dev/null || { cat "$work/out" >&2; exit 1; }
    echo $(((${EPOCHREALTIME/[.,]/} - begun) / 1000))
}
median() { sort -n | sed -n "$(((rounds + 1) / 2))p"; }
row() { printf '%-38s %6s ms\n' "$1" "$2"; }

runtimes=(runc)
! docker info --format '{{json .Runtimes}}' | grep -q '"runsc"' || runtimes+=(runsc)
project p0 runc
adev "$work/p0" list >/dev/null 2>&1
for runtime in "${runtimes[@]}"; do
    project p0 "$runtime"
    project keep "$runtime"
    row "$runtime: docker run --rm $image true" \
        "$(for ((i = 0; i < rounds; i++)); do ms docker run --rm --runtime="$runtime" --network none "$image" true; done | median)"
    row "$runtime: adev run, first sandbox" \
        "$(for ((i = 0; i < rounds; i++)); do ms adev "$work/p0" run -- true; adev "$work/p0" stop >/dev/null 2>&1; done | median)"
    adev "$work/keep" run -- true >/dev/null 2>&1
    row "$runtime: adev run, cold" \
        "$(for ((i = 0; i < rounds; i++)); do ms adev "$work/p0" run -- true; adev "$work/p0" stop >/dev/null 2>&1; done | median)"
    row "$runtime: adev run, warm" "$(for ((i = 0; i < rounds; i++)); do ms adev "$work/keep" run -- true; done | median)"
    row "$runtime: docker exec, warm" \
        "$(for ((i = 0; i < rounds; i++)); do ms docker exec "adev-bench-$$-keep" true; done | median)"
    for i in {1..10}; do project "t$i" "$runtime"; done
    ten() {
        local i pids=()
        for i in {1..10}; do adev "$work/t$i" run -- true & pids+=($!); done
        for i in "${pids[@]}"; do wait "$i"; done
    }
    row "$runtime: adev run, ten at once" "$(ms ten)"
    adev "$work/p0" stop --all >/dev/null 2>&1
done
