#!/usr/bin/env bash
# Builds the images: agent-creds-sandbox, what a sandbox runs unless its config names another, and agent-creds-envoy. Each carries
# the hash of what it was made from, and is made again when that changed.
#
#   sandbox-image/images.sh [test]             with `test` agent-creds-test-java and agent-creds-test-systemd, too, which only the
#                                             tests need
#   sandbox-image/images.sh service PROGRAMS   those of docker-compose.yml instead: agent-creds-envoy, agent-creds-server
#                                              (AGENT_CREDS_IMAGE names it otherwise) with the programs in that folder,
#                                              and agent-creds-prometheus
#
#   BASE=IMAGE    what they are made from, with apt in it (default debian:bookworm-slim)
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

base=${BASE:-debian:bookworm-slim}
label=agent-creds.inputs
# The user whose name is agent inside: who builds, also through sudo. Root's own processes need no entry.
uid=${SUDO_UID:-$(id -u)}
gid=${SUDO_GID:-$(id -g)}
if ((uid == 0)); then uid=1000 gid=1000; fi

need_docker
mkdir -p "$root/target"
exec 9>"$root/target/.images.lock"
flock 9
"$root/sandbox-image/base.sh" "$base"
base_id=$(docker image inspect --format '{{.Id}}' "$base")
context=$(mktemp -d "$root/target/.images.XXXXXX")
trap 'rm -rf "$context"' EXIT

# image NAME DOCKERFILE ARGUMENTS...: builds one image from its Dockerfile and what is in $context, unless that was done before.
image() {
    local name=$1 dockerfile=$root/$2 inputs has began=$SECONDS
    shift 2
    inputs=$({
        printf '%s\n' "$base_id" "$@"
        sha256sum <"$dockerfile"
        cd "$context"
        find . -type f -exec sha256sum {} + | sort
    } | sha256sum | cut -d' ' -f1)
    has=$(docker image inspect --format "{{index .Config.Labels \"$label\"}}" "$name" 2>/dev/null) || has=
    if [[ $has == "$inputs" ]]; then return; fi
    say "building $name"
    # The proxies are taken from the environment, where there are any.
    docker build --file "$dockerfile" --tag "$name" --label "$label=$inputs" --build-arg BASE="$base" \
        --build-arg http_proxy --build-arg https_proxy --build-arg no_proxy "$@" "$context" >&2 ||
        die "building $name failed (see above)"
    say "built $name in $((SECONDS - began)) s: $(docker image inspect --format '{{.Size}}' "$name" | numfmt --to=si)B"
}

if [[ ${1:-} == service ]]; then
    image agent-creds-prometheus deploy/prometheus.Dockerfile
    for program in agent-creds actl mint; do
        [[ -x ${2:?}/$program ]] || die "$2/$program is missing: \`make binaries\` builds it"
        cp --reflink=auto "$2/$program" "$context/$program"
    done
    cp "$root/deploy/serve.sh" "$context/serve.sh"
    chmod 755 "$context"/*
    image "${AGENT_CREDS_IMAGE:-agent-creds-server}" deploy/server.Dockerfile
    rm "$context"/*
else
    image agent-creds-sandbox sandbox-image/Dockerfile --build-arg UID="$uid" --build-arg GID="$gid"
fi
if [[ ${1:-} == test ]]; then
    image agent-creds-test-systemd integration/service/systemd.Dockerfile
    base_id=$(docker image inspect --format '{{.Id}}' agent-creds-sandbox)
    image agent-creds-test-java integration/sandbox/java.Dockerfile
fi
envoy=$("$root/envoy/fetch.sh")
cp --reflink=auto "$envoy" "$context/envoy"
chmod 755 "$context/envoy"
image agent-creds-envoy envoy/Dockerfile
