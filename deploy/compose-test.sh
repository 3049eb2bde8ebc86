#!/usr/bin/env bash
# Builds the images, starts the whole suite on Docker Compose under a project name and on ports of its own, runs the
# stories of tests/ on it and takes it down, also after a failure; then the logs of what failed are printed first.
#
# Whatever Docker engine answers is used, with the registry that it can reach. Where there is none, a folder of offline
# images is: OFFLINE_IMAGES (default ../shared/offline-images), with `engine`, which starts an engine and prints its
# environment, and `images`, which builds stand-ins for the images it is told. What has no stand-in is left out by name.
#
# KEEP=1 leaves the stack running and says how to stop it. TEST_ARGS go to the stories' test program.
set -euo pipefail
cd "$(dirname "$0")/.."

offline=${OFFLINE_IMAGES-../shared/offline-images}
may_be_missing=(kafka-ui grafana) # services without which every story can still be told
start=$SECONDS
began='' # the engine that this run started

say() { printf '==> %s\n' "$*"; }
fail() {
  printf 'compose-test: %s\n' "$*" >&2
  exit 1
}
have_image() { docker image inspect "$1" >/dev/null 2>&1; }

# The engines' process ids; of one that listens on an address if that is given.
engines() {
  local pid
  for pid in $(pgrep -x dockerd); do
    if tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF -- "${1:-dockerd}"; then echo "$pid"; fi
  done
}

ensure_engine() {
  if docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then return; fi
  [ -x "$offline/engine" ] || fail "no Docker engine with Compose v2 answers"
  local before environment
  before=$(engines)
  environment=$("$offline/engine")
  eval "$environment"
  # Only the one on our own socket, and only if it was not there: somebody else may have started another meanwhile.
  began=$(comm -13 <(sort <<<"$before") <(engines "${DOCKER_HOST:-}" | sort) | head -n 1)
  say "using an engine from offline images"
}

ensure_kcat() {
  command -v kcat >/dev/null && return
  local line='apt-get update && apt-get install -y --no-install-recommends kcat'
  if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
    say 'installing kcat, by which a story reads messages'
    bash -c "export DEBIAN_FRONTEND=noninteractive; ${line//apt-get/apt-get -qq}" >/dev/null && return
  fi
  fail "kcat, by which a story reads messages, is missing. On Debian, as root: $line"
}

# Images that Compose and the Dockerfile name and don't build.
named_images() {
  {
    docker compose --profile '*' config --images | grep -v '^order-suite/'
    awk '/^FROM/ && $2 ~ /:/ {print $2}' deploy/Dockerfile
  } | sort -u
}

ensure_images() {
  local missing=() image
  for image in $(named_images); do have_image "$image" || missing+=("$image"); done
  ((${#missing[@]})) || return 0
  for image in "${missing[@]}"; do
    timeout 300 docker pull --quiet "$image" && continue
    [ -x "$offline/images" ] || fail "$image can't be pulled"
    say "no image registry answers: building stand-ins"
    printf '%s\n' "${missing[@]}" | "$offline/images"
    return
  done
}

# The services to start: all but one-shot jobs and tools, and but those whose image is missing and may be.
choose_services() {
  local name image
  services=()
  while read -r name image; do
    case $name in topics | migrate-* | suite) continue ;; esac
    if [[ $image == order-suite/* ]] || have_image "$image"; then
      services+=("$name")
    elif [[ " ${may_be_missing[*]} " == *" $name "* ]]; then
      say "left out: $name ($image has no stand-in)"
    else
      fail "there is no image $image"
    fi
  done < <(docker compose --profile '*' config | awk '
    /^[a-z]/ { inside = /^services:/ }
    inside && /^  [a-z]/ { name = $1; sub(":", "", name) }
    inside && /^    image:/ { print name, $2 }')
}

# Consecutive ports that nobody listens on, below every ephemeral range and above those that the tests reserve.
choose_ports() {
  local base port number
  local names=(ORDER PAYMENT INVENTORY NOTIFICATION GATEWAY KAFKA POSTGRES MAILDEV KAFKA_UI JAEGER PROMETHEUS GRAFANA)
  for _ in $(seq 50); do
    base=$((30000 + RANDOM % 2600))
    for number in "${!names[@]}"; do
      port=$((base + number))
      if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then continue 2; fi
    done
    for number in "${!names[@]}"; do export "${names[number]}_PORT=$((base + number))"; done
    return
  done
  fail 'no free ports were found'
}

finish() {
  local status=$?
  trap - EXIT
  if [ -n "${COMPOSE_PROJECT_NAME:-}" ]; then
    if [ "$status" -ne 0 ]; then
      docker compose --profile '*' ps --all --format 'table {{.Service}}\t{{.State}}\t{{.Health}}\t{{.ExitCode}}' || true
      docker compose --profile '*' logs --no-color --tail 60 "${failing[@]}" || true
    fi
    if [ "${KEEP:-}" = 1 ]; then
      say "left running: docker compose --project-name $COMPOSE_PROJECT_NAME --profile '*' down --volumes"
      env | grep -E '^(DOCKER_HOST|[A-Z_]+_PORT)=' | sort
      exit "$status"
    fi
    say 'taking the stack down'
    docker compose --profile '*' down --volumes --remove-orphans >/dev/null 2>&1 || true
  fi
  if [ -n "$began" ]; then
    # Nobody else tidies this engine: each run would leave a gigabyte of layers that no later one takes up.
    docker image prune --force >/dev/null || true
    docker builder prune --force --keep-storage 4GB >/dev/null || true
    kill "$began" 2>/dev/null || true
  fi
  say "$(if [ "$status" -eq 0 ]; then echo passed; else echo FAILED; fi) after $((SECONDS - start)) s"
  exit "$status"
}
failing=()
trap finish EXIT
trap 'exit 130' INT TERM HUP

ensure_engine
ensure_kcat
docker compose --profile '*' config --quiet
docker compose config --quiet
ensure_images
services=()
choose_services
choose_ports
export COMPOSE_PROJECT_NAME=order-suite-test-$$ COMPOSE_PROFILES=observe,ui SUITE_TAG=compose-test
# Soon enough to wait for; the tiers are as many as usual.
export RETRY_DELAYS_MS=${RETRY_DELAYS_MS:-500,1000,2000,4000}

say "building the images and the stories (${SECONDS} s)"
docker compose --progress quiet build
read -r -a flags <<<"${CARGO_FLAGS---locked}"
${CARGO:-cargo} test "${flags[@]}" --package system-tests --test compose --no-run

say "starting ${services[*]} ($((SECONDS - start)) s)"
docker compose --progress quiet up --detach --wait --wait-timeout 300 "${services[@]}"

say "telling the stories ($((SECONDS - start)) s)"
read -r -a arguments <<<"${TEST_ARGS:-}"
${CARGO:-cargo} test "${flags[@]}" --package system-tests --test compose -- --ignored --test-threads 1 "${arguments[@]}"
