#!/usr/bin/env bash
# Shows that the suite runs on a fresh machine: a bare rust:1.95-bookworm container without Java, Maven or PostgreSQL,
# from an archive without .git. As a plain user without sudo, `make run` names the one line to type and, after root has
# typed it, ends in a confirmed order; as root it installs what is missing by itself.
# Needs a Docker engine and the image; ends with status 77 (skipped) without them. Takes little longer than one build:
# what the first container built, the second one finds in target/. DOCKER_RUN_FLAGS are added to `docker run`.
set -euo pipefail
cd "$(dirname "$0")/.."

image=${IMAGE:-rust:1.95-bookworm}
if ! docker info >/dev/null 2>&1; then
  echo "skipped: no Docker engine answers"
  exit 77
fi
if ! docker image inspect "$image" >/dev/null 2>&1 && ! docker pull --quiet "$image"; then
  echo "skipped: there is no image $image"
  exit 77
fi

work=$(mktemp -d)
container=order-suite-fresh-$$
read -r -a run_flags <<<"${DOCKER_RUN_FLAGS:-}"
clean() {
  docker rm --force --volumes "$container"
  docker volume rm --force "$container"
  rm -rf "$work"
}
trap 'clean >/dev/null 2>&1' EXIT

if git rev-parse --verify --quiet HEAD >/dev/null 2>&1; then
  git archive --output="$work/suite.tar" HEAD
else
  tar --exclude=./target --exclude=./data -cf "$work/suite.tar" .
fi

start() {
  docker rm --force --volumes "$container" >/dev/null 2>&1 || true
  docker run --detach --name "$container" --volume "$container:/suite/target" "${run_flags[@]}" "$image" sleep infinity \
    >/dev/null
  inside root 'useradd --create-home plain'
  docker cp "$work/suite.tar" "$container:/suite.tar"
  inside root 'tar -xf /suite.tar -C /suite && chown -R plain /suite'
}
inside() { # user, command
  docker exec --user "$1" --workdir / "$container" bash -c "export HOME=\$(getent passwd $1 | cut -d: -f6); $2"
}
fail() { echo "FAILED: $*" >&2; exit 1; }
confirmed() { # user
  inside "$1" 'cd /suite && make run ONCE=1' 2>&1 | tee "$work/output" || fail "make run ONCE=1 as $1"
  grep -q 'Order confirmed' "$work/output" || fail "no confirmed order as $1"
  left=$(inside root 'ls -l /proc/[0-9]*/exe 2>/dev/null | grep -cE "/(java|postgres|[a-z]+-service|sandbox-gateway)$" || true')
  [ "$left" = 0 ] || fail "$left processes are left running"
}

echo '== a plain user without sudo'
start
status=0
inside plain 'cd /suite && deploy/bootstrap.sh' >"$work/output" 2>&1 || status=$?
cat "$work/output"
[ "$status" -eq 3 ] || fail "status 3 was expected, not $status"
line=$(sed -n 's/^  //p' "$work/output")
[ -n "$line" ] || fail 'no line to type'
inside root "export DEBIAN_FRONTEND=noninteractive; $line" >"$work/output" 2>&1 || { tail -20 "$work/output"; fail "$line"; }
confirmed plain

echo '== root'
start
confirmed root
echo '== both ended in a confirmed order, and nothing was left running'
