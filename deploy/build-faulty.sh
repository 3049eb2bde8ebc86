#!/usr/bin/env bash
# Builds the services once more with crash points and removable guards (cargo feature fault-injection), and them and the
# command line with TLS towards Kafka (kafka-tls, which needs OpenSSL), into a folder of their own: target/fault-injection.
# Intermediates are shared, and packages are chosen as in an ordinary build, so that features of external crates stay as
# they are: only librdkafka and the crates that have one of the features are compiled again.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
services=(order-service payment-service inventory-service notification-service)
features=$(printf '%s/fault-injection,' "${services[@]}")$(printf '%s/kafka-tls,' "${services[@]}" ops)
# shellcheck disable=SC2086 # several flags are meant to be several words
CARGO_BUILD_BUILD_DIR=$target ${CARGO:-cargo} build ${CARGO_FLAGS---locked} "$@" --workspace \
  "${services[@]/#/--bin=}" --bin=suite --target-dir "$target/fault-injection" --features "${features%,}"
