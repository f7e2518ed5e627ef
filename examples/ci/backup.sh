#!/bin/sh
# A restore point before a deploy, in any pipeline: what comes after this script deploys only if it succeeds.
# POLICY and NAMESPACE name the ProtectionPolicy, COMMIT is about to be deployed. KUBECONFIG is as for kubectl.
set -eu

lockstep backup "${POLICY:?}" --namespace="${NAMESPACE:?}" --before="${COMMIT:-$(git rev-parse HEAD)}" --timeout="${TIMEOUT:-30m}" --output=json >point.json
echo "made by lockstep: point.json"
