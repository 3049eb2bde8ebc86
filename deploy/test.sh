#!/usr/bin/env bash
# Builds every test, then runs all of them on a Kafka and PostgreSQL that this run starts for itself (own ports, fresh
# data), so several runs side by side don't meet. TEST_BOUND_SECS bounds the run; TEST_ARGS go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
bound=${TEST_BOUND_SECS:-1200}
flags=${CARGO_FLAGS---locked}
read -r -a arguments <<<"${TEST_ARGS:-}"
# The tests wait for servers and clocks far more than they compute.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-6}
# shellcheck disable=SC2086 # several flags are meant to be several words
{
  # Unbuilt tests and binaries would count against the time of the tests, and of the first one that starts a service.
  cargo build $flags --workspace --bins
  deploy/build-faulty.sh
  cargo test $flags --workspace --no-run
}

mkdir -p "$target"
output=$(mktemp "$target/test-output.XXXXXX")
trap 'rm -f "$output"' EXIT
# shellcheck disable=SC2086
"$target/debug/local-stack" exec --bound-secs "$bound" -- cargo test $flags --workspace --no-fail-fast \
  "${arguments[@]}" 2>&1 | tee "$output" || status=$?

awk '
  /^test result:/ { suites++; passed += $4; failed += $6; ignored += $8 }
  /^test .* \.\.\. FAILED$/ { names = names "\n  " $2 }
  END {
    printf "\n%d tests passed, %d failed, %d ignored, in %d test programs\n", passed, failed, ignored, suites
    if (names != "") print "failed:" names
  }' "$output"
exit "${status:-0}"
