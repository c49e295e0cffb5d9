# What the scripts beside this one and integration/setup.sh share. They source it; it does nothing by itself.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Debian leaves these out of an ordinary user's PATH, and `ip`, `nft` and debootstrap live there.
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s: %s\n' "${0#"$root"/}" "$*" >&2; }
die() {
    say "$@"
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root, with a `sudo` that asks no password where this is not root.
as_root() {
    if ((EUID == 0)); then
        "$@"
    elif have sudo && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        die "this needs root, or a sudo that asks no password: $*"
    fi
}

install_packages() {
    have apt-get || die "missing, and this is no Debian where they could be installed: $*"
    if ((EUID != 0)) && ! { have sudo && sudo -n true 2>/dev/null; }; then
        die "missing: $*. As root: apt-get update && apt-get install $*"
    fi
    say "installing $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update >&2
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >&2
}

need_docker() {
    have docker || die "the docker command is missing: install Docker (on Debian: apt-get install docker.io)"
    local why
    why=$(docker version --format '{{.Server.Version}}' 2>&1 >/dev/null) && return
    die "Docker's engine does not answer: $why. Start it, or let this user use it: usermod -aG docker ${USER:-$(id -un)}"
}
has_docker() { have docker && docker version >/dev/null 2>&1; }
has_image() { docker image inspect "$1" >/dev/null 2>&1; }

# Prints where apt gets Debian's packages with this label (Debian, Debian-Security) from, so that what is made here comes
# from the same mirror; nothing where apt has no such source.
debian_mirror() {
    local uris
    have apt-get || return 0
    uris=$(debian_uris)
    if [[ -z $uris ]]; then
        # Labels are in the lists, and those may have been removed.
        as_root apt-get -qq update >&2
        uris=$(debian_uris)
    fi
    awk -v label="$1" '$2 == label { sub("/$", "", $1); print $1; exit }' <<<"$uris"
}
debian_uris() {
    # shellcheck disable=SC2016 # apt fills these in
    apt-get indextargets --format '$(REPO_URI) $(LABEL) $(ORIGIN)' 'Created-By: Packages' | awk '$3 == "Debian"'
}
