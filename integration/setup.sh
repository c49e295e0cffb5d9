#!/usr/bin/env bash
# Makes a Debian machine with Rust and Python ready for `make demo` or `make test`.
#
#   integration/setup.sh demo   what the demo needs; where Docker answers, the images and helpers of the sandboxes too
#   integration/setup.sh test   that, and what the tests need: the oldest Envoy that is supported, Docker (its engine has to run
#                               already) with the images, compose and gVisor's runtime, network tools, Chromium, the Python
#                               SDKs in target/sdk-venv, and Pyppeteer in target/pyppeteer-venv
#
# Missing Debian packages are installed as root or with a `sudo` that asks no password; otherwise this says what to
# install and fails. Nothing is ever skipped silently. Quiet when there is nothing to do.
set -euo pipefail

# shellcheck source=../sandbox-image/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../sandbox-image/common.sh"
what=${1:-test}

# Prints the Debian packages that are missing, one a line.
missing() {
    have cc || echo build-essential
    have curl || echo curl
    have python3 || echo python3
    [[ -s /etc/ssl/certs/ca-certificates.crt ]] || echo ca-certificates
    # Debian splits these two off its python3; another Python on PATH has them.
    if ! have python3 || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then echo python3-venv; fi
    [[ $what == test ]] || return 0
    have ip || echo iproute2
    have nft || echo nftables
    have dbus-daemon || echo dbus-daemon
    have gnome-keyring-daemon || echo gnome-keyring
    have openssl || echo openssl
    have groff || echo groff-base
    have git || echo git
    have gh || echo gh
    have chromium || echo chromium
    docker compose version >/dev/null 2>&1 || have docker-compose || echo docker-compose
    if ! have unshare || ! have nsenter || ! have setpriv || ! have flock; then echo util-linux; fi
}

check_rust() {
    have cargo || die "cargo is missing: install Rust (see rust-version in Cargo.toml)"
    [[ $what == test ]] || return 0
    local component
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 && continue
        have rustup || die "cargo $component is missing: install it with your Rust"
        say "adding the Rust component for cargo $component"
        rustup component add "${component/fmt/rustfmt}" >&2
    done
}

# The SDK tests build their own network out of namespaces; without root that takes user namespaces.
check_namespaces() {
    local unshare=(unshare --net --mount)
    ((EUID == 0)) || unshare+=(--user --map-root-user)
    local why
    why=$("${unshare[@]}" true 2>&1) && return
    say "cannot make network namespaces: ${unshare[*]} true: $why"
    die "run as root, or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1," \
        "kernel.apparmor_restrict_unprivileged_userns=0)"
}

# A virtual environment with what a lock names, made anew only when the lock or the Python changed.
venv() { # NAME LOCK
    local venv=$root/target/$1-venv lock=$root/integration/sdk/$2 stamp
    stamp=$({ python3 -c 'import sys; print(sys.executable, sys.version)' && cat "$lock"; } | sha256sum | cut -d' ' -f1)
    mkdir -p "$root/target"
    exec 9>"$root/target/.$1-venv.lock"
    flock 9
    if [[ $(cat "$venv/.stamp" 2>/dev/null) != "$stamp" ]]; then
        say "installing integration/sdk/$2 into target/$1-venv"
        rm -rf "$venv"
        python3 -m venv "$venv"
        "$venv/bin/python3" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
            --requirement "$lock" >&2 || die "pip could not install integration/sdk/$2 (see above)"
        printf '%s\n' "$stamp" >"$venv/.stamp"
    fi
    exec 9>&-
}

case $what in
demo | test) ;;
*) die "usage: integration/setup.sh demo|test" ;;
esac

mapfile -t packages < <(missing)
if ((${#packages[@]})); then install_packages "${packages[@]}"; fi
mapfile -t packages < <(missing)
((${#packages[@]} == 0)) || die "still missing after the installation: ${packages[*]}"
check_rust
"$root/envoy/fetch.sh" >/dev/null
if [[ $what == test ]]; then
    # The oldest one that is supported.
    ENVOY_VERSION=1.39.0 "$root/envoy/fetch.sh" >/dev/null
    check_namespaces
    venv sdk requirements.txt
    venv pyppeteer pyppeteer.txt
    "$root/sandbox-image/helpers.sh" debug
    "$root/sandbox-image/images.sh" test
    "$root/sandbox-image/gvisor.sh"
elif has_docker; then
    "$root/sandbox-image/helpers.sh" release
    "$root/sandbox-image/images.sh"
fi
