#!/bin/sh
# For a runner that no object of the cluster stands for: the door closes a quarter of a minute after this script has died,
# however it died.
#
#   SESSION=it-42 ADDRESS=203.0.113.7 ./open.sh make integration-tests
set -eu
kubectl create -f - <<EOF
apiVersion: gatepass.dev/v1alpha1
kind: AccessSession
metadata: {name: $SESSION}
spec:
  resources: [{name: staging-db}]
  source: {cidrs: ["$ADDRESS/32"]}
  duration: 2h # at the latest
  heartbeat: {interval: 5s, missed: 3}
EOF
kubectl wait --for=jsonpath='{.status.heartbeat.leaseName}' --timeout=1m "accesssession/$SESSION"
lease=$(kubectl get accesssession "$SESSION" --output 'jsonpath={.status.heartbeat.leaseName}')
# It counts that the time is another one; that it is right does not. When this script dies, so does its loop, also where
# nobody takes note of its death, as in a container whose first process reaps no others.
while kill -0 $$ 2>/dev/null && ! grep -q '^State:.Z' "/proc/$$/status" 2>/dev/null; do
  kubectl patch lease "$lease" --type merge --patch "{\"spec\": {\"renewTime\": \"$(date -u +%Y-%m-%dT%H:%M:%S.000000Z)\"}}" || true
  sleep 4
done >/dev/null &
heart=$!
trap 'kill "$heart"; kubectl patch accesssession "$SESSION" --type merge --patch "{\"spec\": {\"stop\": true}}"' EXIT
# Settled comes with success and failure alike, so that a failure does not wait for the limit.
kubectl wait --for=condition=Settled --timeout=5m "accesssession/$SESSION"
kubectl wait --for=condition=Ready --timeout=0 "accesssession/$SESSION"
"$@"
