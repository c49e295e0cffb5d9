#!/bin/sh
# What the server's container runs: the configuration is in /etc/agent-creds, and an Envoy beside it finds its bootstrap in the
# runtime folder, which the two share. Arguments go to `agent-creds serve`.
set -eu
state=/var/lib/agent-creds
run=/run/agent-creds
agent-creds bootstrap --node-id local --state-dir "$state" --runtime-dir "$run" >"$run/envoy.json.new"
mv "$run/envoy.json.new" "$run/envoy.json"
set -- --config /etc/agent-creds --state-dir "$state" --runtime-dir "$run" --envoy none "$@"
if [ -e /etc/agent-creds/vault.toml ]; then set -- --vault-config /etc/agent-creds/vault.toml "$@"; fi
exec agent-creds serve --http 0.0.0.0:9902 --log-format json "$@"
