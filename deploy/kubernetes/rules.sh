#!/usr/bin/env bash
# Makes the Prometheus operator's copy of deploy/prometheus/alerts.yml: its spec is the rule file as it is. validate.sh fails
# where the two differ.
set -euo pipefail
cd "$(dirname "$0")/../.."

{
  cat <<'END'
# Made by deploy/kubernetes/rules.sh from deploy/prometheus/alerts.yml. Don't edit by hand.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: order-suite
  labels:
    app.kubernetes.io/part-of: order-suite
spec:
END
  sed -e '/^#/d' -e 's/^./  &/' deploy/prometheus/alerts.yml
} >deploy/kubernetes/components/monitoring/prometheus-rule.yaml
