#!/usr/bin/env bash
# Runs a command as the "host" of a small internet of its own, with two sandboxes and an outside that it could forward to.
#
#   sandbox   172.30.1.2, fd30:1::2 ── veth ── BRIDGE  172.30.1.1, fd30:1::1 ┐
#   neighbour 172.30.2.2            ── veth ── BRIDGE2 172.30.2.1            ├ host (COMMAND runs here; forwards, IPv4 and IPv6)
#   outside   192.0.2.2, fd90::2, 8.8.8.8, 169.254.169.254, ff.. ── veth ── up0 192.0.2.1, fd90::1 ┘
#
# Use: world.sh BRIDGE BRIDGE2 COMMAND [ARGUMENT]...
# COMMAND finds in its environment WORLD: a folder with the programs `sandbox`, `neighbour` and `outside`, each of which runs its
# arguments in that namespace. Nothing of this machine's own network is touched, and all is gone when the command ends.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

# With its parent dies this, with this unshare, with that the first process in the namespace, and with it all the others.
case ${WORLD_STAGE:-} in
'')
    WORLD_STAGE=outside exec setpriv --pdeathsig KILL "$BASH" "${BASH_SOURCE[0]}" "$@"
    ;;
outside)
    namespaces=(--net --mount --pid --fork --kill-child --mount-proc --propagation private)
    ((EUID == 0)) || namespaces+=(--user --map-root-user)
    WORLD_STAGE=host exec setpriv --pdeathsig KILL unshare "${namespaces[@]}" -- "$BASH" "${BASH_SOURCE[0]}" "$@"
    ;;
esac
unset WORLD_STAGE
bridge=$1 bridge2=$2
shift 2

mount -t tmpfs -o mode=755 tmpfs /srv
ip link set lo up

# namespace NAME: a network namespace, and /srv/NAME, which runs its arguments in it.
namespace() {
    unshare --net sleep infinity &
    local holder=$!
    for _ in {1..500}; do
        [[ $(readlink "/proc/$holder/ns/net") != $(readlink /proc/self/ns/net) ]] && break
        sleep 0.01
    done
    printf '#!/bin/sh\nexec nsenter --target %d --net -- "$@"\n' "$holder" >"/srv/$1"
    chmod +x "/srv/$1"
    "/srv/$1" ip link set lo up
    # Duplicate address detection would hold up IPv6 for a second.
    "/srv/$1" sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad; echo 0 >/proc/sys/net/ipv6/conf/all/accept_dad'
    ip link add "to-$1" type veth peer name eth0 netns "$holder"
    ip link set "to-$1" up
    "/srv/$1" ip link set eth0 up
}

echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
echo 0 >/proc/sys/net/ipv6/conf/all/accept_dad
for each in "$bridge:172.30.1.1/24:fd30:1::1/64:sandbox:1" "$bridge2:172.30.2.1/24:fd30:2::1/64:neighbour:2"; do
    name=${each%%:*} number=${each##*:}
    rest=${each%:*} space=${rest##*:}
    namespace "$space"
    ip link add "$name" type bridge
    ip link set "$name" up
    ip link set "to-$space" master "$name"
    ip address add "172.30.$number.1/24" dev "$name"
    ip address add "fd30:$number::1/64" dev "$name" nodad
    "/srv/$space" ip address add "172.30.$number.2/24" dev eth0
    "/srv/$space" ip address add "fd30:$number::2/64" dev eth0 nodad
    "/srv/$space" ip route add default via "172.30.$number.1"
    "/srv/$space" ip -6 route add default via "fd30:$number::1"
done
namespace outside
ip address add 192.0.2.1/24 dev to-outside
ip address add fd90::1/64 dev to-outside nodad
ip route add default via 192.0.2.2
ip route add 169.254.169.254 via 192.0.2.2
ip -6 route add default via fd90::2
for address in 192.0.2.2/24 fd90::2/64; do /srv/outside ip address add "$address" dev eth0; done
for address in 8.8.8.8/32 169.254.169.254/32; do /srv/outside ip address add "$address" dev lo; done
/srv/outside ip -6 address add 2001:db8::8/128 dev lo nodad
/srv/outside ip route add default via 192.0.2.1
/srv/outside ip -6 route add default via fd90::1
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/ipv6/conf/all/forwarding

WORLD=/srv "$@" &
command=$!
wait "$command"
