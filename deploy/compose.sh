#!/usr/bin/env bash
# Runs agent-creds as a service, by docker compose: see docker-compose.yml.
#
#   deploy/compose.sh up            builds what is missing, starts everything, and returns once it is well (GRAFANA=1: with Grafana)
#   deploy/compose.sh down          stops it (VOLUMES=1: and removes its state)
#   deploy/compose.sh deploy        the server alone, to Fly.io
#   deploy/compose.sh clean-certs   removes certificate authorities and certificates; everything that trusted them has to be told
#
#   PROGRAMS=FOLDER   take the programs from there, instead of building them
set -euo pipefail
# shellcheck source=../sandbox-image/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../sandbox-image/common.sh"
cd "$root"

export AGENT_CREDS_SECRETS=${AGENT_CREDS_SECRETS:-deploy/secrets.env}
secrets=$AGENT_CREDS_SECRETS
project=${COMPOSE_PROJECT_NAME:-agent-creds}
export COMPOSE_PROJECT_NAME=$project

compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose "$@"
    elif have docker-compose; then
        docker-compose "$@"
    else
        die "docker compose is missing: install it (on Debian: apt-get install docker-compose)"
    fi
}

# What the containers read from the environment: for this user alone.
secrets_file() {
    [[ -e $secrets ]] && return
    (umask 077 && printf '# NAME=VALUE, a line each: what vault.toml takes from the environment.\n' >"$secrets")
    say "made $secrets: the keys go in there"
}

images() {
    local programs=${PROGRAMS:-$root/target/release}
    [[ -n ${PROGRAMS:-} ]] || "${CARGO:-cargo}" build --locked --release --bins
    sandbox-image/images.sh service "$programs"
}

up() {
    local deadline id health
    need_docker
    secrets_file
    images
    local arguments=()
    [[ -z ${GRAFANA:-} ]] || arguments+=(--profile grafana)
    compose "${arguments[@]}" up -d --remove-orphans
    say "waiting until it is well"
    id=$(compose ps -q server)
    deadline=$((SECONDS + ${UP_SECONDS:-120}))
    while :; do
        health=$(docker inspect --format '{{.State.Health.Status}}' "$id")
        if [[ $health == healthy ]] && [[ $(ready "$id") == *'"connected": true'* ]]; then break; fi
        if ((SECONDS > deadline)); then
            docker logs --tail 20 "$id" >&2 || true
            die "the server is $health after ${UP_SECONDS:-120} s (its last lines are above; \`docker logs $id\` has all)"
        fi
        sleep 0.5
    done
    local port=${AGENT_CREDS_PORT:-15443} listen=${AGENT_CREDS_LISTEN:-127.0.0.1}
    cat <<END
agent-creds    $listen:$port          curl --cacert ca.pem --connect-to ::$listen:$port https://…
CA             docker exec ${id:0:12} cat /var/lib/agent-creds/ca/ca.pem > ca.pem
status         http://127.0.0.1:${AGENT_CREDS_HTTP_PORT:-9902}/readyz
Prometheus     http://127.0.0.1:${PROMETHEUS_PORT:-9090}
END
    [[ -z ${GRAFANA:-} ]] || echo "Grafana        http://127.0.0.1:${GRAFANA_PORT:-3000}"
}

# The server's own report.
ready() {
    docker exec "$1" actl status --json --state-dir /var/lib/agent-creds --runtime-dir /run/agent-creds 2>/dev/null || true
}

down() {
    local arguments=()
    [[ -z ${VOLUMES:-} ]] || arguments+=(--volumes)
    [[ -e $secrets ]] || secrets_file
    compose --profile grafana down --remove-orphans "${arguments[@]}"
}

deploy() {
    local fly
    fly=$(command -v fly || command -v flyctl) || die "flyctl is missing: install it from Fly.io, and log in"
    need_docker
    images
    "$fly" deploy --config fly.toml --local-only --image "${AGENT_CREDS_IMAGE:-agent-creds-server}" "$@"
}

clean_certs() {
    local state=${XDG_STATE_HOME:-$HOME/.local/state}/agent-creds found=
    local authority
    for authority in ca node-ca; do
        [[ -d $state/$authority ]] || continue
        rm -r "${state:?}/$authority"
        say "removed $state/$authority: the next server makes a new certificate authority"
        found=1
    done
    if has_docker && docker volume inspect "${project}_state" >/dev/null 2>&1; then
        docker run --rm --network none --user 65532:65532 --volume "${project}_state:/state" "${AGENT_CREDS_IMAGE:-agent-creds-server}" rm -rf /state/ca /state/node-ca
        say "removed the certificates in the volume ${project}_state: restart the service (\`make up\`)"
        found=1
    fi
    [[ -n $found ]] || say "there are no certificates"
}

case ${1:-} in
up) up ;;
down) down ;;
deploy) deploy "${@:2}" ;;
clean-certs) clean_certs ;;
*) die "usage: deploy/compose.sh up|down|deploy|clean-certs" ;;
esac
