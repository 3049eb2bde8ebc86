#!/bin/sh
# Makes sure that this machine can build and run the suite: a C compiler, make, Rust, Java 17+ and Maven.
# On Debian and Ubuntu, as root or with password-less sudo, it installs what is missing. Elsewhere it names the one line
# to type and ends with status 3. With `tests` as its argument it also looks for what only the tests need: Prometheus, and
# OpenSSL to build against, for Kafka over TLS; with `jdk`, for a Java compiler, which only `make bench-spring` needs.
set -eu

rust_minimum=1.95
java_minimum=17

have() { command -v "$1" >/dev/null 2>&1; }

java_command() {
  if [ -n "${JAVA_HOME:-}" ]; then printf '%s\n' "$JAVA_HOME/bin/java"; else echo java; fi
}

# The major number of "17.0.15", "21-ea" and the like; 0 where there is none.
java_major() {
  java=$(java_command)
  have "$java" || { echo 0; return; }
  version=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
  echo "${version:-0}"
}

rust_is_new_enough() {
  have cargo && have rustc || return 1
  version=$(rustc --version 2>/dev/null | sed -n 's/^rustc \([0-9]*\)\.\([0-9]*\).*/\1 \2/p')
  [ -n "$version" ] || return 1
  major=${version% *} minor=${version#* }
  [ "$major" -gt "${rust_minimum%.*}" ] || { [ "$major" -eq "${rust_minimum%.*}" ] && [ "$minor" -ge "${rust_minimum#*.}" ]; }
}

# Debian's package for Java: the release's default where it is new enough.
java_package() {
  release=$(sed -n 's/^VERSION_ID="\{0,1\}\([0-9]*\).*/\1/p' /etc/os-release)
  case $(sed -n 's/^ID=//p' /etc/os-release):$release in
    debian:11 | ubuntu:20 | ubuntu:22) echo openjdk-17-jre-headless ;;
    *) echo default-jre-headless ;;
  esac
}

is_debian() { have apt-get && grep -qE '^ID(_LIKE)?=.*(debian|ubuntu)' /etc/os-release 2>/dev/null; }

packages=''
missing=''
need() { # what it is, its Debian packages
  missing="${missing:+$missing, }$1"
  packages="$packages $2"
}

have cc || need 'a C compiler' 'gcc libc6-dev'
have make || need make make
[ "$(java_major)" -ge "$java_minimum" ] || need "Java $java_minimum" "$(is_debian && java_package || echo java)"
have mvn || need Maven maven
tests=''
if [ "${1:-}" = tests ]; then
  if ! have "${PROMETHEUS:-prometheus}" || ! have "${PROMTOOL:-promtool}"; then
    need 'Prometheus (for the tests)' prometheus
    tests=' prometheus'
  fi
  if ! have pkg-config || ! pkg-config --exists openssl; then
    need 'OpenSSL (for the tests)' 'libssl-dev pkg-config'
    tests="$tests openssl@3 pkgconf"
  fi
fi

if [ "${1:-}" = jdk ]; then
  have "$(java_command)c" || need "a Java compiler (JDK $java_minimum)" "$(is_debian && java_package | sed 's/jre/jdk/' || echo java)"
fi

if [ -n "$missing" ]; then
  line="apt-get update && apt-get install -y --no-install-recommends$packages"
  if ! is_debian; then
    case $(uname -s) in
      Darwin) line="xcode-select --install; brew install openjdk@21 maven$tests && export JAVA_HOME=\$(brew --prefix openjdk@21)/libexec/openjdk.jdk/Contents/Home" ;;
      *) line='' ;;
    esac
    echo "Missing: $missing." >&2
    if [ -n "$line" ]; then echo "Type this line, then try again:" >&2; echo "  $line" >&2
    else echo "Install them with this system's package manager, then try again." >&2; fi
    exit 3
  fi
  if [ "$(id -u)" -eq 0 ]; then
    run_as_root() { sh -c "$1"; }
  elif have sudo && sudo -n true 2>/dev/null; then
    run_as_root() { sudo -n sh -c "$1"; }
  else
    echo "Missing: $missing. Type this line as root, then try again:" >&2
    echo "  $line" >&2
    exit 3
  fi
  echo "Installing what is missing: $missing"
  run_as_root "export DEBIAN_FRONTEND=noninteractive; $line" || {
    echo "The installation failed; this is the line to type as root:" >&2
    echo "  $line" >&2
    exit 3
  }
  if [ "$(java_major)" -lt "$java_minimum" ]; then
    echo "Java is still older than $java_minimum: point JAVA_HOME at a newer one, then try again." >&2
    exit 3
  fi
fi

if ! rust_is_new_enough; then
  echo "Missing: Rust $rust_minimum or later. Type this line, then try again:" >&2
  if have rustup; then
    echo "  rustup update stable" >&2
  else
    echo "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y && . \"\$HOME/.cargo/env\"" >&2
  fi
  exit 3
fi
