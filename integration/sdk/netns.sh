#!/usr/bin/env bash
# Runs a command as the "host" of a small network of its own, in which one client can reach nothing but a gateway port:
# the topology that sandboxes have.
#
#   netns.sh [--port PORT] [--host NAME]... -- COMMAND [ARGUMENT]...
#
#   client namespace                      host namespace (COMMAND runs here)
#   198.18.0.N for each NAME, /etc/hosts  veth `gateway` 10.91.0.1 ── nft: every TCP connection → :PORT, the rest dropped
#   default route via 10.91.0.1 ────────▶ lo (all of 127/8); no other interface, no route out
#
# COMMAND finds in its environment NETNS_GATEWAY (10.91.0.1), NETNS_PORT, and NETNS_CLIENT: a program that runs its
# arguments in the client namespace. The exit code is COMMAND's.
#
# Everything lives in private namespaces (network, mounts, processes; as an ordinary user also a user namespace), so this
# machine's interfaces, rules and files are never touched, and all of it is gone when the command ends, or this is killed.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

gateway=10.91.0.1
client=10.91.0.2
die() {
    printf 'netns.sh: %s\n' "$*" >&2
    exit 1
}

port=15443
hosts=()
arguments=("$@")
while (($#)); do
    case $1 in
    --port) port=${2:?} && shift 2 ;;
    --host) hosts+=("${2:?}") && shift 2 ;;
    --) shift && break ;;
    *) die "usage: netns.sh [--port PORT] [--host NAME]... -- COMMAND [ARGUMENT]..." ;;
    esac
done
(($#)) || die "no command"

# With its parent dies this, with this unshare, with that the first process in the namespace, and with it all the others.
case ${NETNS_STAGE:-} in
'')
    NETNS_STAGE=outside exec setpriv --pdeathsig KILL "$BASH" "${BASH_SOURCE[0]}" "${arguments[@]}"
    ;;
outside)
    namespaces=(--net --mount --pid --fork --kill-child --mount-proc --propagation private)
    ((EUID == 0)) || namespaces+=(--user --map-root-user)
    NETNS_STAGE=host setpriv --pdeathsig KILL unshare "${namespaces[@]}" -- "$BASH" "${BASH_SOURCE[0]}" "${arguments[@]}" &
    # unshare itself ignores SIGTERM and SIGINT while it waits.
    trap 'kill -KILL $!; exit 143' TERM
    trap 'kill -KILL $!; exit 130' INT
    wait $!
    exit
    ;;
esac
unset NETNS_STAGE

# As the first process here we get no signal we do not ask for.
trap 'exit 143' TERM
trap 'exit 130' INT

# Our files: in memory, over a folder that Debian always has and nothing here needs, seen from here alone.
mount -t tmpfs -o mode=755 tmpfs /srv

ip link set lo up
unshare --net --mount --propagation private sleep infinity &
holder=$!
in_client=(nsenter --target "$holder" --net --mount --)
for _ in {1..200}; do
    [[ $(readlink "/proc/$holder/ns/net") != $(readlink /proc/self/ns/net) &&
        $(readlink "/proc/$holder/ns/mnt") != $(readlink /proc/self/ns/mnt) ]] && break
    sleep 0.02
done

ip link add gateway type veth peer name uplink netns "$holder"
ip address add "$gateway/24" dev gateway
ip link set gateway up
"${in_client[@]}" ip link set lo up
"${in_client[@]}" ip address add "$client/24" dev uplink
"${in_client[@]}" ip link set uplink up
"${in_client[@]}" ip route add default via "$gateway"

nft -f - <<NFT
table inet netns_$$ {
    chain to_gateway {
        type nat hook prerouting priority dstnat;
        iifname "gateway" meta l4proto tcp redirect to :$port
    }
    chain gateway_only {
        type filter hook input priority filter;
        iifname "gateway" ct status dnat tcp dport $port accept
        iifname "gateway" drop
    }
    chain nothing_through {
        type filter hook forward priority filter; policy drop;
    }
}
NFT

# Names come from /etc/hosts alone: no query could leave anyway, and a missing answer would be slow.
{
    echo "127.0.0.1 localhost"
    for index in "${!hosts[@]}"; do echo "198.18.0.$((index + 1)) ${hosts[index]}"; done
} >/srv/hosts
: >/srv/resolv.conf
echo "hosts: files" >/srv/nsswitch.conf
[[ -e /etc/hosts ]] || die "/etc/hosts is missing: it is needed, even if empty, to be covered for the client"
for file in hosts resolv.conf nsswitch.conf; do
    [[ ! -e /etc/$file ]] || "${in_client[@]}" mount --bind "/srv/$file" "/etc/$file"
done

printf '#!/bin/sh\nexec nsenter --target %d --net --mount -- "$@"\n' "$holder" >/srv/client
chmod +x /srv/client

NETNS_GATEWAY=$gateway NETNS_PORT=$port NETNS_CLIENT=/srv/client "$@" &
command=$!
wait "$command"
