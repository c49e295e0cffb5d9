#!/usr/bin/env bash
# Sees to it that Docker has the image both our images are made from. Quiet when it has.
#
#   sandbox-image/base.sh [IMAGE]    debian:bookworm-slim unless told otherwise
#
# It is pulled; where no registry answers, debian:SUITE-slim is made here with debootstrap, from the mirror this machine's apt
# uses, and gets the same tag. That needs root or a `sudo` that asks no password.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

image=${1:-debian:bookworm-slim}
# How long a registry may take to say that it has the image, in seconds. The download itself may take longer.
patience=10

need_docker
if has_image "$image"; then exit; fi
mkdir -p "$root/target"
exec 9>"$root/target/.base.lock"
flock 9
if has_image "$image"; then exit; fi
work=$(mktemp -d)
trap 'as_root rm -rf "$work"' EXIT

pull() {
    docker pull "$image" >"$work/pull.log" 2>&1 9>&- &
    local pull=$! deadline=$((SECONDS + patience))
    # This line comes as soon as a registry has answered that it has the image.
    until grep -q 'Pulling from' "$work/pull.log"; do
        if ! kill -0 "$pull" 2>/dev/null; then break; fi
        if ((SECONDS >= deadline)); then
            kill "$pull"
            printf 'no registry answered within %s s\n' "$patience" >>"$work/pull.log"
            break
        fi
        sleep 0.1
    done
    wait "$pull" 2>/dev/null
}

say "pulling $image"
if pull; then exit; fi
why=$(tail -n 1 "$work/pull.log")
[[ $image == debian:*-slim ]] || die "cannot pull $image: $why"
suite=${image#debian:}
suite=${suite%-slim}

say "cannot pull $image ($why): making it here with debootstrap (about a minute)"
have debootstrap || install_packages debootstrap
mirror=$(debian_mirror Debian)
security=$(debian_mirror Debian-Security)
tree=$work/tree
arguments=(--variant=minbase)
# Without certificates apt could not talk to the mirror from inside.
if [[ $mirror == https:* || $security == https:* ]]; then arguments+=(--include=ca-certificates); fi
as_root debootstrap "${arguments[@]}" "$suite" "$tree" ${mirror:+"$mirror"} >"$work/debootstrap.log" 2>&1 || {
    tail -n 20 "$work/debootstrap.log" >&2
    die "debootstrap failed (see above)"
}

# What makes the slim image slim: no documentation and no translations, here and in what is installed on top.
cat >"$work/slim" <<'END'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
END
as_root install -m 644 "$work/slim" "$tree/etc/dpkg/dpkg.cfg.d/slim"
as_root find "$tree/usr/share/doc" ! -type d ! -name copyright -delete
as_root rm -rf "$tree"/usr/share/{man,info,locale}/* "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/*.bin \
    "$tree"/var/cache/apt/archives/*.deb "$tree"/var/log/{bootstrap,dpkg,alternatives}.log "$tree"/var/cache/ldconfig/aux-cache
# This machine's own names; Docker gives each container its own.
as_root rm -f "$tree/etc/hostname" "$tree/etc/resolv.conf"
if [[ -n $mirror ]]; then
    {
        printf 'deb %s %s main\n' "$mirror" "$suite" "$mirror" "$suite-updates"
        if [[ -n $security ]]; then printf 'deb %s %s-security main\n' "$security" "$suite"; fi
    } >"$work/sources.list"
    as_root install -m 644 "$work/sources.list" "$tree/etc/apt/sources.list"
fi
as_root tar -C "$tree" --numeric-owner --sort=name -c . |
    docker import --change 'CMD ["bash"]' --message "debootstrap $suite" - "$image" >/dev/null
say "made $image"
