#!/usr/bin/env bash
# Makes gVisor's `runsc` a runtime of this machine's Docker, for the tests. Quiet when Docker has one already.
#
# The program is the one in Debian trixie's package, pinned by SHA-256: bookworm's own does not run on kernels from 6.11
# on. It is registered in Docker's daemon.json, where everything else is kept; a HUP makes the engine read it again, and no
# container notices. Where this is not possible, install gVisor as its own documentation says.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

suite=trixie
package=golang-gvisor-gvisor
version=0.0~20240729.0-4+b7
runsc=/usr/local/lib/agent-creds/runsc
config=/etc/docker/daemon.json

registered() { [[ $(docker info --format '{{json .Runtimes}}' 2>/dev/null) == *'"runsc":'* ]]; }

need_docker
if registered; then exit; fi

case "$(uname -s)-$(uname -m)" in
Linux-x86_64)
    arch=amd64
    sha256=3c25a5130dfac2f71237d5baad56ac86a255de87a0400f11b36a555156dc325a
    ;;
Linux-aarch64)
    arch=arm64
    sha256=8e13e0625a094f962da3edcaf81ab0ed779726b6335e385a8148919f2c217c8e
    ;;
*) die "no pinned gVisor for $(uname -s) on $(uname -m): install runsc and register it with Docker" ;;
esac
for tool in curl python3; do have "$tool" || install_packages "$tool"; done
have dpkg-deb || die "this is no Debian: install runsc and register it with Docker ('runsc install')"

mkdir -p "$root/target"
exec 9>"$root/target/.gvisor.lock"
flock 9
# Another run may have been here while this one waited.
if registered; then exit; fi
work=$(mktemp -d "$root/target/.gvisor.XXXXXX")
trap 'rm -rf "$work"' EXIT

if [[ ! -x $runsc || $(cat "$runsc.version" 2>/dev/null) != "$version" ]]; then
    mirror=$(debian_mirror Debian)
    [[ -n $mirror ]] || die "apt knows no Debian mirror to take runsc $version of $suite from: install runsc yourself"
    url=$mirror/pool/main/${package:0:1}/$package/runsc_${version}_$arch.deb
    say "downloading gVisor (runsc $version, about 7 MB)"
    curl --fail --silent --show-error --location --output "$work/runsc.deb" "$url" ||
        die "cannot download $url: if $suite has a newer one, pin that in this script"
    actual=$(sha256sum "$work/runsc.deb" | cut -d' ' -f1)
    [[ $actual == "$sha256" ]] || die "$url has SHA-256 $actual, expected $sha256: refused"
    dpkg-deb --fsys-tarfile "$work/runsc.deb" | tar -xO ./usr/bin/runsc >"$work/runsc"
    printf '%s\n' "$version" >"$work/version"
    as_root install -D -m 755 "$work/runsc" "$runsc.new"
    as_root mv -f "$runsc.new" "$runsc"
    as_root install -m 644 "$work/version" "$runsc.version"
fi

# --network=host: gVisor uses the stack of the container's own network namespace, not its own; this release cannot do the
# latter on kernels from 6.11 on (it takes the container's namespace for the machine's).
say "registering runsc in $config"
as_root cat "$config" >"$work/old.json" 2>/dev/null || : >"$work/old.json"
python3 - "$work/old.json" "$work/new.json" "$runsc" <<'PYTHON' ||
import json, sys

old, new, runsc = sys.argv[1:]
text = open(old).read()
config = json.loads(text) if text.strip() else {}
config.setdefault("runtimes", {})["runsc"] = {"path": runsc, "runtimeArgs": ["--network=host"]}
with open(new, "w") as file:
    json.dump(config, file, indent=4)
    file.write("\n")
PYTHON
    die "cannot add a runtime to $config (see above): register $runsc with the argument --network=host in it"
pid=$(cat /run/docker.pid 2>/dev/null || cat /var/run/docker.pid 2>/dev/null) && [[ $(cat "/proc/$pid/comm") == dockerd ]] ||
    die "no dockerd of this machine runs (/run/docker.pid): register $runsc with --network=host where it does"
if [[ -s $work/old.json ]]; then as_root cp -p "$config" "$config.before-runsc"; fi
as_root install -D -m 644 "$work/new.json" "$config.new"
as_root mv -f "$config.new" "$config"
as_root kill -HUP "$pid"

undo() {
    if [[ -s $work/old.json ]]; then as_root mv -f "$config.before-runsc" "$config"; else as_root rm -f "$config"; fi
    as_root kill -HUP "$pid"
    die "$@"
}
deadline=$((SECONDS + 20))
until registered; do
    ((SECONDS < deadline)) || undo "Docker did not take runsc from $config: see the log of dockerd"
    sleep 0.1
done
"$root/sandbox-image/base.sh"
why=$(docker run --rm --runtime=runsc --network=none debian:bookworm-slim true 2>&1) ||
    undo "gVisor does not run here: $why"
say "gVisor is registered: docker run --runtime=runsc"
