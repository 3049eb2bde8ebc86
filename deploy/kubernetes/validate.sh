#!/usr/bin/env bash
# Builds the overlays and checks every manifest against its schema: core kinds by PyPI's kubernetes-validate, those of KEDA,
# CloudNativePG and the Prometheus operator by the CRDs in their Go modules. Kinds without a schema here (Strimzi's) are
# listed. Then that manifests, images, settings and documents fit together (checks.py), and that ServiceDown fires.
# Tools go into target/kubernetes. Where one can't be had, that is said and the rest is checked; with --require it is an
# error.
set -euo pipefail
cd "$(dirname "$0")/../.."

# Go modules of operators, and where their CRDs are in them.
operators=(
  github.com/kedacore/keda/v2@v2.17.2 config/crd/bases
  github.com/cloudnative-pg/cloudnative-pg@v1.27.0 config/crd/bases
  github.com/prometheus-operator/prometheus-operator@v0.85.0 example/prometheus-operator-crd
)
tools=$(pwd)/${CARGO_TARGET_DIR:-target}/kubernetes
require=${1:-}

lacks() {
  echo "not checked: $1"
  if [ "$require" = --require ]; then exit 1; fi
}

if command -v "${PROMTOOL:-promtool}" >/dev/null; then
  "${PROMTOOL:-promtool}" test rules deploy/prometheus/alerts.test.yml
else
  lacks 'promtool is not installed, so ServiceDown is not tried'
fi

command -v kubectl >/dev/null || { lacks 'kubectl is not installed, so the overlays are not built'; exit 0; }
mkdir -p "$tools"
for overlay in local production; do
  kubectl kustomize "deploy/kubernetes/overlays/$overlay" >"$tools/$overlay.yaml"
  echo "$overlay: $(grep -c '^kind:' "$tools/$overlay.yaml") manifests"
done

if ! "$tools/venv/bin/python" -c 'import kubernetes_validate' 2>/dev/null; then
  if ! { python3 -m venv "$tools/venv" && "$tools/venv/bin/pip" install --quiet kubernetes-validate==1.37.0 pyyaml jsonschema; }; then
    lacks 'kubernetes-validate can not be installed (python3, PyPI)'
    exit 0
  fi
fi

crds=()
for ((i = 0; i < ${#operators[@]}; i += 2)); do
  module=${operators[i]}
  if folder=$(cd "$tools" && GOFLAGS=-mod=mod go mod download -json "$module" 2>/dev/null | sed -n 's/.*"Dir": "\(.*\)".*/\1/p') && [ -n "$folder" ]; then
    crds+=("$folder/${operators[i + 1]}")
  else
    lacks "the CRDs of $module (needs go and a module proxy)"
  fi
done

status=0
export PYTHONDONTWRITEBYTECODE=1
for overlay in local production; do
  "$tools/venv/bin/python" deploy/kubernetes/validate.py "$overlay" "$tools/$overlay.yaml" "${crds[@]}" || status=1
done
"$tools/venv/bin/python" deploy/kubernetes/checks_test.py "$tools" || status=1
if [ "$status" -eq 0 ]; then echo 'every checked manifest is as its schema says, and they fit together'; fi
exit "$status"
