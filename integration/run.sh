#!/usr/bin/env bash
# Runs every test. The integration tests drive real Docker, Envoy, gVisor and clocks, dozens at once; one that fails there is run
# once more, alone. What fails again fails the run; what does not is named at the end, for somebody to look into.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo=${CARGO:-cargo}
# So many failures are no accident.
most=5

"$cargo" test --locked --lib --bins --examples

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if "$cargo" test --locked --test integration 2>&1 | tee "$log"; then
    exit 0
fi
# After the last `failures:` libtest lists the names.
mapfile -t failed < <(tac "$log" | sed -n '/^test result: FAILED/,/^failures:$/ s/^    \([^ ]*\)$/\1/p' | sort -u)
if ((${#failed[@]} == 0 || ${#failed[@]} > most)); then
    printf 'integration/run.sh: %d tests failed\n' "${#failed[@]}" >&2
    exit 1
fi
printf 'integration/run.sh: running again, each alone: %s\n' "${failed[*]}" >&2
for test in "${failed[@]}"; do
    "$cargo" test --locked --test integration -- --exact "$test" | tee "$log"
    # A name that matches nothing is no success.
    grep -q '^test result: ok\. 1 passed' "$log"
done
printf 'integration/run.sh: FLAKY: failed among the others, and passed alone: %s\n' "${failed[*]}" >&2
