#!/usr/bin/env bash
# Installs what `make build` built: programs, the helpers that sandboxes get, completions, man pages, what messages mean, systemd units.
#
#   deploy/install.sh [--remove]
#
#   PREFIX=DIR     default /usr/local
#   DESTDIR=DIR    put in front of every path, for those who make packages
#   PROGRAMS=DIR   where the programs are (default target/release)
set -euo pipefail
# shellcheck source=../sandbox-image/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../sandbox-image/common.sh"

prefix=${PREFIX:-/usr/local}
to=${DESTDIR:-}$prefix
from=${PROGRAMS:-$root/target/release}
programs=(agent-creds adev actl mint aenv)
units=(system/agent-creds.service user/agent-creds.service)

completion() {
    case $1 in
    bash) echo "$to/share/bash-completion/completions/$2" ;;
    zsh) echo "$to/share/zsh/site-functions/_$2" ;;
    fish) echo "$to/share/fish/vendor_completions.d/$2.fish" ;;
    esac
}

if [[ ${1:-} == --remove ]]; then
    if [[ -x $to/bin/agent-creds ]]; then
        # Those that it would write, and no others.
        pages=$(mktemp -d)
        "$to/bin/agent-creds" man "$pages"
        for page in "$pages"/*; do rm -f "$to/share/man/man1/${page##*/}"; done
        rm -rf "$pages"
    fi
    for program in "${programs[@]}"; do
        rm -f "$to/bin/$program"
        for shell in bash zsh fish; do rm -f "$(completion "$shell" "$program")"; done
    done
    for unit in "${units[@]}"; do rm -f "$to/lib/systemd/$unit"; done
    rm -rf "$to/lib/agent-creds" "$to/share/doc/agent-creds"
    say "removed agent-creds from $to; state and configuration are left"
    exit
fi
[[ $# == 0 ]] || die "usage: deploy/install.sh [--remove]"

for program in "${programs[@]}"; do
    [[ -x $from/$program ]] || die "$from/$program is missing: \`make build\` builds it"
    install -D -m 755 "$from/$program" "$to/bin/$program"
    for shell in bash zsh fish; do
        file=$(completion "$shell" "$program")
        mkdir -p "${file%/*}"
        "$from/$program" completions "$shell" >"$file"
    done
done
"$from/agent-creds" man "$to/share/man/man1"
for page in "$root/docs/errors.md" "$root"/docs/errors/*.md; do
    install -D -m 644 "$page" "$to/share/doc/agent-creds/${page#"$root/docs/"}"
done
for helper in aenv mint cdp-proxy; do
    install -D -m 755 "$root/target/helpers/bin/$helper" "$to/lib/agent-creds/$helper"
done
install -d "$to/lib/systemd/system" "$to/lib/systemd/user"
for unit in agent-creds agent-creds-user; do
    kind=system
    [[ $unit != *-user ]] || kind=user
    sed "s|/usr/local/bin/|$prefix/bin/|" "$root/deploy/systemd/$unit.service" >"$to/lib/systemd/$kind/agent-creds.service"
done
say "installed into $to; systemctl enable --now agent-creds (a machine's gateways), systemctl --user enable --now agent-creds (sandboxes)"
