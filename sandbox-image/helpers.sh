#!/usr/bin/env bash
# Builds what agent-creds mounts into sandboxes, into target/helpers/bin. Statically linked, so that it runs in any image: Debian,
# Alpine, or one with nothing in it.
#
#   sandbox-image/helpers.sh [debug|release]    release unless told otherwise
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

profile=${1:-release}
case $profile in
debug) arguments=() ;;
release) arguments=(--release) ;;
*) die "usage: sandbox-image/helpers.sh [debug|release]" ;;
esac
helpers=(aenv mint cdp-proxy)

have "${CARGO:-cargo}" || die "cargo is missing: install Rust (see rust-version in Cargo.toml)"
host=$(rustc -vV | sed -n 's/^host: //p')
home=$root/target/helpers
for helper in "${helpers[@]}"; do arguments+=(--bin "$helper"); done
# The target is named so that the flag is not for the build scripts and macros, which cannot be static; a target folder of its own,
# so that the two kinds of build do not throw each other's work away.
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" "${CARGO:-cargo}" build --manifest-path "$root/Cargo.toml" --locked \
    --no-default-features --target "$host" --target-dir "$home" "${arguments[@]}"

mkdir -p "$home/bin"
for helper in "${helpers[@]}"; do
    built=$home/$host/$profile/$helper
    # A program that asks for an interpreter is not static, and would not start in another image.
    if readelf --program-headers --wide "$built" | grep -q INTERP; then die "$built is not static"; fi
    cmp -s "$built" "$home/bin/$helper" && continue
    # Sandboxes may be running the old one: it is replaced, not written to.
    install -m 755 "$built" "$home/bin/$helper.new"
    mv -f "$home/bin/$helper.new" "$home/bin/$helper"
done
