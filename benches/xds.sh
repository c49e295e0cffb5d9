#!/usr/bin/env bash
# What the xDS server does with many clients, all of it in one run: LOAD is the program xds-load, optimised. `make bench-xds` runs it.
# ROUNDS (default 5) is of how many rounds medians are shown.
set -euo pipefail

load=$1
rounds=${ROUNDS:-5}
# Each client is a connection: so many as a process may have files open, here and in the server, less some for other things.
ulimit -n "$(ulimit -Hn)"
most=19000
limit=$(ulimit -n)
if [[ $limit != unlimited ]] && ((limit - 500 < most)); then
    most=$((limit - 500))
    printf 'no more than %d clients: a process may have %d files open\n' "$most" "$limit"
fi
printf '%s, %d processors, %s\n\n' "$(uname -sr)" "$(nproc)" "$(date -u +%F)"

clients() {
    local count=$1
    shift
    ((count <= most)) || count=$most
    "$load" --clients "$count" --rounds "$rounds" "$@"
    echo
}
"$load" snapshots --rounds "$rounds"
echo
clients 1000
clients 5000 --stalled 10 --storm
clients 5000 --proto sotw --storm
clients 19000
