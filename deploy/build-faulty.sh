#!/usr/bin/env bash
# Builds the services once more with crash points and removable guards (cargo feature fault-injection), into a folder of
# their own: target/fault-injection. Intermediates are shared, and the whole workspace is built so that features of
# external crates stay as they are: only the suite's own crates are compiled again.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
features=$(printf '%s-service/fault-injection,' order payment inventory notification)
# shellcheck disable=SC2086 # several flags are meant to be several words
CARGO_BUILD_BUILD_DIR=$target ${CARGO:-cargo} build ${CARGO_FLAGS---locked} "$@" --workspace --bins \
  --target-dir "$target/fault-injection" --features "${features%,}"
