#!/usr/bin/env bash
# The whole story on this machine, in under a minute after the build; `make demo` runs it. No root; with Docker, also from inside
# a sandbox.
#
#   KEEP=1     leave everything running at the end, and say how to play with it
#   NO_COLOR=1 no colours (there are none anyway when the output is no terminal)
#
# Exit code 0 when every check of the summary passed and nothing is left running, else 1.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
target=${CARGO_TARGET_DIR:-$root/target}
port=15443

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' off=$'\e[0m'
else
    bold='' dim='' red='' green='' off=''
fi

work=
upstream_pid=
server_pid=
envoy_pid=
load_pid=
# There may be a sandbox.
sandboxed=
kept=

title() { printf '\n%s%s%s\n' "$bold" "$*" "$off"; }
say() { printf '  %s\n' "$*"; }
columns() { printf '  %-58s%s\n' "$@"; }
fail() {
    printf '\n%sThe demo failed:%s %s\n' "$red" "$off" "$*" >&2
    local log
    for log in upstream.log server.log adev.log run/envoy.log; do
        if [[ -s $work/$log ]]; then
            printf '%s-- the end of %s%s\n' "$dim" "$log" "$off" >&2
            tail -n 15 "$work/$log" >&2
        fi
    done
    exit 1
}

# --- Checks: what the summary at the end lists.

checks=()
failed=0
# check WORDS... -- COMMAND...: notes whether the command succeeds.
check() {
    local words=()
    while [[ $1 != -- ]]; do
        words+=("$1")
        shift
    done
    shift
    if "$@"; then
        checks+=("${green}✓${off} ${words[*]}")
    else
        checks+=("${red}✗${off} ${words[*]}")
        failed=$((failed + 1))
    fi
}
contains() { [[ $1 == *"$2"* ]]; }
lacks() { [[ $1 != *"$2"* ]]; }

# --- Processes: all by id, all gone at the end.

alive() { [[ -n $1 ]] && kill -0 "$1" 2>/dev/null; }
# stop PID SECONDS: SIGTERM, then SIGKILL. Fails if SIGKILL was needed.
stop() {
    alive "$1" || return 0
    kill -TERM "$1" 2>/dev/null || true
    local tries=$(($2 * 20))
    while ((tries-- > 0)); do
        alive "$1" || return 0
        sleep 0.05
    done
    kill -KILL "$1" 2>/dev/null || true
    return 1
}
cleanup() {
    local code=$?
    trap - EXIT
    [[ -z $kept ]] || exit "$code"
    stop "$load_pid" 2 || true
    if [[ -n $sandboxed ]]; then
        adev stop --all >/dev/null 2>&1 || true
        # Where the server has ended, that started another one.
        [[ ! -s $work/run/lock ]] || stop "$(head -n 1 "$work/run/lock")" 10 || true
    fi
    stop "$server_pid" 10 || true
    stop "$envoy_pid" 1 || true
    stop "$upstream_pid" 2 || true
    [[ -z $work ]] || rm -rf "$work"
    exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# wait_for SECONDS WHAT PID COMMAND...: until the command succeeds; fails when time is up or the process has ended.
wait_for() {
    local tries=$(($1 * 20)) what=$2 pid=$3
    shift 3
    until "$@"; do
        alive "$pid" || fail "$what: the process has ended"
        ((tries-- > 0)) || fail "$what: not in time"
        sleep 0.05
    done
}

# --- What the steps are made of.

# The agent's curl: nothing special but the connection going to Envoy, and our CA. Prints the body, then the status.
agent_curl() {
    curl --disable --silent --show-error --noproxy '*' --max-time 10 --connect-to "::$addr:$port" \
        --cacert "$work/state/ca/ca.pem" --write-out '\n%{http_code}' "$@"
}
status_of() { printf '%s' "${1##*$'\n'}"; }
body_of() { printf '%s' "${1%$'\n'*}"; }
# A secret's beginning: enough to recognise it, useless to anyone.
short() { printf '%s… (%d characters)' "${1:0:12}" "${#1}"; }
random_hex() { od -An -N12 -tx1 /dev/urandom | tr -d ' \n'; }
readyz() {
    [[ -s $work/run/http.addr ]] && curl --disable --silent --noproxy '*' --max-time 5 "$@" "http://$(<"$work/run/http.addr")/readyz"
}
is_ready() { readyz --fail --output /dev/null; }
# Microseconds.
now() { printf '%s' "${EPOCHREALTIME/[.,]/}"; }
# posts: how many POSTs the upstream has received. A GET that is still under way is none of them.
posts() { grep -c '^POST ' "$work/upstream.log" || true; }

build() {
    local count=0 line
    mkdir -p "$target"
    local log=$target/demo-build.log
    : >"$log"
    # One line that counts, instead of hundreds.
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$log"
        if [[ $line == *Compiling* ]]; then
            count=$((count + 1))
            [[ ! -t 1 ]] || printf '\r\e[K  %s%d crates: %s%s' "$dim" "$count" "${line##*Compiling }" "$off"
        fi
    done < <(cargo build --locked --color never --bins --example demo-upstream 2>&1 || echo "the build failed")
    [[ ! -t 1 ]] || printf '\r\e[K'
    if [[ $(tail -n 1 "$log") == "the build failed" ]]; then
        grep -v '^ *Compiling' "$log" >&2 || true
        fail "cargo build did not succeed (see above)"
    fi
}

free_address() {
    local tries=50 candidate
    while ((tries-- > 0)); do
        candidate=127.$((RANDOM % 254 + 1)).$((RANDOM % 254 + 1)).$((RANDOM % 254 + 1))
        # Nobody answers there, so it is free.
        if ! (exec 3<>"/dev/tcp/$candidate/$port") 2>/dev/null; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "no free loopback address with port $port"
}

# write_config HOST...: agent-creds.toml with these upstreams, saved as editors do it, in one step.
write_config() {
    local host
    {
        printf '[gateway]\nlisten = "%s:%s"\n' "$addr" "$port"
        for host in "$@"; do
            printf '\n[upstream."%s"]\naddress = "127.0.0.1:%s"\nca = "upstream-ca.pem"\n' "$host" "$(<"$work/upstream.port")"
        done
    } >"$work/config/.new"
    mv -f "$work/config/.new" "$work/config/agent-creds.toml"
}

start_upstream() {
    setsid "$target/debug/examples/demo-upstream" --name api.stripe.com --name api.openai.com \
        --ca-out "$work/config/upstream-ca.pem" --port-out "$work/upstream.port" \
        </dev/null >"$work/upstream.log" 2>&1 &
    upstream_pid=$!
    wait_for 10 "starting the upstream" "$upstream_pid" test -s "$work/upstream.port"
}

start_server() {
    cat >"$work/vault.toml" <<'TOML'
[credentials."api.stripe.com"]
type = "bearer"
token = { provider = "env", name = "STRIPE_API_KEY" }

[credentials."api.openai.com"]
type = "bearer"
token = { provider = "env", name = "OPENAI_API_KEY" }
TOML
    # Nothing of this shell's environment decides how the demo goes.
    (
        unset STRICT_MODE TOKEN_PREFIX MACAROON_SIGNING_KEY RUST_LOG
        export ENVOY_BIN=$envoy STRIPE_API_KEY=$stripe_key OPENAI_API_KEY=$openai_key
        exec setsid "$target/debug/agent-creds" serve --config "$work/config/agent-creds.toml" \
            --vault-config "$work/vault.toml" --state-dir "$work/state" --runtime-dir "$work/run" \
            --http 127.0.0.1:0 --envoy process </dev/null >"$work/server.log" 2>&1
    ) &
    server_pid=$!
    wait_for 30 "starting the server" "$server_pid" is_ready
    envoy_pid=$(readyz | python3 -c 'import json, sys; print(json.load(sys.stdin)["envoy"]["pid"] or "")')
}

mint() {
    env -u TOKEN_PREFIX -u MACAROON_SIGNING_KEY "$target/debug/mint" --state-dir "$work/state" "$@" ||
        fail "mint $* did not succeed"
}

# Requests one after the other until it is stopped; each leaves a line: its status, or why there is none.
load() {
    trap 'exit 0' TERM
    local answer
    while :; do
        answer=$(agent_curl --output /dev/null -H "Authorization: Bearer $token" https://api.stripe.com/v1/customers 2>&1) || true
        printf '%s\n' "$(status_of "$answer")" >>"$work/load"
    done
}

# The launcher of sandboxes, with the demo's own server.
adev() {
    local command=$1
    shift
    (cd "$work/project" && exec "$target/debug/adev" "$command" --state-dir "$work/state" --runtime-dir "$work/run" "$@")
}

# sandbox_config RUNTIME HOST...: the project's agent-creds.toml, written in place: so the sandbox's read-only mount of it stays.
sandbox_config() {
    local runtime=$1 host
    shift
    {
        printf '[sandbox]\nname = "demo-%s"\nruntime = "%s"\n\n[sandbox.env]\n' "$$" "$runtime"
        printf 'STRIPE_API_KEY = { token = { hosts = ["api.stripe.com"], methods = ["GET"] } }\n'
        for host in "$@"; do
            printf '\n[upstream."%s"]\naddress = "127.0.0.1:%s"\nca = "%s"\n' "$host" "$(<"$work/upstream.port")" \
                "$work/config/upstream-ca.pem"
        done
    } >"$work/project/agent-creds.toml"
}

# The same from inside a container that reaches nothing else.
in_a_sandbox() {
    local runtime=runc answer line before left
    ! docker info --format '{{json .Runtimes}}' 2>/dev/null | grep -q '"runsc"' || runtime=runsc
    mkdir "$work/project"
    sandbox_config "$runtime" api.stripe.com
    sandboxed=1
    say "adev run -- curl -H \"Authorization: Bearer \$STRIPE_API_KEY\" https://api.stripe.com/v1/customers   ($runtime)"
    answer=$(adev run -- sh -c 'curl -sS -m 10 -w "\n%{http_code}" -H "Authorization: Bearer $STRIPE_API_KEY" https://api.stripe.com/v1/customers' 2>"$work/adev.log") || true
    line=$(tail -n 1 "$work/upstream.log")
    say "the upstream got  ${line#*authorization: }"
    check "a plain curl in a sandbox is answered" -- test "$(status_of "$answer")" = 200
    check "with the real key upstream" -- contains "$line" "authorization: Bearer $stripe_key"
    answer=$(adev run -- env 2>>"$work/adev.log") || true
    check "which the sandbox's environment does not have" -- lacks "$answer" "$stripe_key"
    check "but a token has" -- contains "$answer" "STRIPE_API_KEY=acm_"
    before=$(posts)
    answer=$(adev run -- sh -c 'curl -sS -m 10 --http1.1 -w "\n%{http_code}" -d a=1 -H "Authorization: Bearer $STRIPE_API_KEY" https://api.stripe.com/v1/charges' 2>>"$work/adev.log") || true
    line="status $(status_of "$answer"), $(($(posts) - before)) of it at the upstream"
    [[ $line == "status 403, 0 of it at the upstream" ]] || say "a POST: $line: $answer"
    check "a POST is refused with 403, unheard by the upstream" -- test "$line" = "status 403, 0 of it at the upstream"
    answer=$(adev run -- sh -c 'curl -sS -m 5 https://evil.example/ 2>&1; curl -sS -m 5 --resolve evil.example:443:93.184.215.14 https://evil.example/ 2>&1' 2>>"$work/adev.log") || true
    say "${answer//$'\n'/$'\n'  }"
    check "no other host is reached, by name or by address" -- contains "$answer" "Could not resolve host"
    answer=$(adev run -- sh -c 'echo "[upstream.\"evil.example\"]" >>agent-creds.toml' 2>&1) || true
    check "the sandbox cannot widen its own agent-creds.toml" -- contains "$answer" "Read-only"
    sandbox_config "$runtime" api.stripe.com api.openai.com
    answer=$(adev run -- sh -c 'for i in $(seq 50); do curl -sS -m 5 -o /dev/null https://api.openai.com/v1/models 2>/dev/null && echo served && break; sleep 0.1; done' 2>>"$work/adev.log") || true
    check "a host added to the file is served inside, without a restart" -- contains "$answer" served
    adev stop --all >>"$work/adev.log" 2>&1 || true
    left=$(docker ps -aq --filter "name=demo-$$"; docker network ls -q --filter "name=demo-$$")
    [[ -n $left ]] || sandboxed=
    check "adev stop leaves no container and no network" -- test -z "$left"
}

# --- The story.

title "Setting up"
"$root/integration/setup.sh" demo || fail "the machine is not ready (see above)"
envoy=$("$root/envoy/fetch.sh")
say "building (the first time takes a few minutes)"
build

work=$(mktemp -d "${TMPDIR:-/tmp}/agent-creds-demo.XXXXXX")
mkdir "$work/config"
addr=$(free_address)
stripe_key=sk_test_$(random_hex)
openai_key=sk-proj-$(random_hex)
begun=$(now)
start_upstream
write_config api.stripe.com
start_server
version=$("$envoy" --version | sed -n 's|.*/\([0-9][0-9.]*\)/.*|\1|p')
columns "an upstream that plays api.stripe.com and api.openai.com" "127.0.0.1:$(<"$work/upstream.port")"
columns "agent-creds serve, which holds the real keys" "$(short "$stripe_key")"
columns "Envoy ${version:-(of unknown version)}, which it configures over xDS" "$addr:$port"

title "1. A token that may only GET from api.stripe.com"
token=$(mint --hosts api.stripe.com --methods GET --valid-for 1h)
say "mint --hosts api.stripe.com --methods GET --valid-for 1h"
say "$(short "$token")"

title "2. An agent calls https://api.stripe.com with it"
answer=$(agent_curl -H "Authorization: Bearer $token" https://api.stripe.com/v1/customers) || true
line=$(tail -n 1 "$work/upstream.log")
say "the agent sent    Authorization: Bearer $(short "$token")"
say "the upstream got  ${line#*authorization: }"
say "the agent got     $(status_of "$answer") $(body_of "$answer" | head -c 90)…"
check "a GET with the token is answered" -- test "$(status_of "$answer")" = 200
check "the upstream received the real key" -- contains "$line" "authorization: Bearer $stripe_key"
check "and no token" -- lacks "$(<"$work/upstream.log")" "$token"
check "the agent received no key" -- lacks "$answer" "$stripe_key"

title "3. It tries to POST"
before=$(posts)
# By HTTP/1.1: a refusal may come before the body was sent, and curls before 8 lose such an answer over HTTP/2, now and then.
answer=$(agent_curl --http1.1 --data amount=1 -H "Authorization: Bearer $token" https://api.stripe.com/v1/charges) || true
body=$(body_of "$answer")
say "$(status_of "$answer") ${body//$'\n'/$'\n'      }"
check "a POST with the GET-only token is refused with 403" -- test "$(status_of "$answer")" = 403
check "and the upstream heard nothing of it" -- test "$(posts)" = "$before"

title "4. A second host is added to agent-creds.toml while requests flow"
openai_token=$(mint --hosts api.openai.com --valid-for 1h)
answer=$(agent_curl -H "Authorization: Bearer $openai_token" https://api.openai.com/v1/models 2>&1) || true
check "api.openai.com does not answer before" -- test "$(status_of "$answer")" != 200
load &
load_pid=$!
sleep 1
edited=$(now)
write_config api.stripe.com api.openai.com
took=
while (($(now) - edited < 10000000)); do
    answer=$(agent_curl -H "Authorization: Bearer $openai_token" https://api.openai.com/v1/models 2>&1) || true
    if [[ $(status_of "$answer") == 200 ]]; then
        took=$((($(now) - edited) / 1000))
        break
    fi
done
line=$(grep ' api\.openai\.com ' "$work/upstream.log" | tail -n 1) || line=
sleep 1
stop "$load_pid" 15 || true
wait "$load_pid" 2>/dev/null || true
load_pid=
requests=$(wc -l <"$work/load")
wrong=$(grep --count --invert-match --line-regexp 200 "$work/load") || true
if [[ -n $took ]]; then
    say "api.openai.com answered $took ms after the save (a new curl process included)"
    say "the upstream got  ${line#*authorization: }"
else
    say "api.openai.com did not answer within 10 s of the save"
    say "the last try said: $(head -c 300 <<<"$answer")"
fi
say "meanwhile api.stripe.com was asked $requests times, $wrong of which failed"
[[ $wrong == 0 ]] || say "the first failure said: $(grep --max-count 1 --invert-match --line-regexp 200 "$work/load")"
check "the new host answers after the edit${took:+, within $took ms}" -- test -n "$took"
check "with its own key" -- contains "$line" "authorization: Bearer $openai_key"
check "none of $requests requests meanwhile failed" -- test "$requests" -gt 0 -a "$wrong" = 0

title "5. What the logs know"
leaks=0
for secret in "$stripe_key" "$openai_key" "$token" "$openai_token"; do
    # The upstream's log is the one place where the keys belong.
    if found=$(grep --recursive --files-with-matches --fixed-strings -- "$secret" "$work/server.log" "$work/run" "$work/config" 2>/dev/null); then
        leaks=$((leaks + 1))
        say "${secret:0:8}… is in ${found//$'\n'/, }"
    fi
done
((leaks)) || say "neither key nor token"
check "no log or file of the server or Envoy has a key or a token" -- test "$leaks" = 0

title "6. The same from inside a sandbox"
if docker info >/dev/null 2>&1; then
    in_a_sandbox
else
    say "left out: there is no Docker here"
fi

if [[ ${KEEP:-} != "" && ${KEEP:-} != 0 ]]; then
    kept=1
    cat >"$work/stop" <<STOP
#!/bin/sh
# Stops this demo and removes its folder.
kill $server_pid 2>/dev/null
for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 $server_pid 2>/dev/null || break; sleep 0.5; done
kill $upstream_pid $envoy_pid 2>/dev/null
rm -rf '$work'
STOP
    chmod +x "$work/stop"
else
    say "stopping everything"
    clean=0
    stop "$server_pid" 10 || clean=1
    for _ in {1..40}; do
        alive "$envoy_pid" || break
        sleep 0.05
    done
    ! alive "$envoy_pid" || clean=1
    stop "$upstream_pid" 2 || clean=1
    check "nothing is left running" -- test "$clean" = 0
fi

title "Summary, after $((($(now) - begun) / 1000000)) s"
for line in "${checks[@]}"; do say "$line"; done

if [[ -n $kept ]]; then
    title "Still running (KEEP=1)"
    cat <<PLAY
  Ask, as the agent does:
    curl --connect-to ::$addr:$port --cacert $work/state/ca/ca.pem \\
      -H "Authorization: Bearer $token" https://api.stripe.com/v1/customers
  Change what is allowed; it is served a moment after you save:
    \$EDITOR $work/config/agent-creds.toml
  Mint other tokens:
    $target/debug/mint --state-dir $work/state --hosts api.openai.com
  See what reaches the upstream, and what the server thinks:
    tail -f $work/upstream.log $work/server.log
    curl http://$(<"$work/run/http.addr")/readyz
  Stop it all:
    $work/stop
PLAY
fi

echo
if ((failed)); then
    printf '%s%d of %d checks failed.%s\n' "$red" "$failed" "${#checks[@]}" "$off"
    exit 1
fi
printf '%sAll %d checks passed.%s\n' "$green" "${#checks[@]}" "$off"
