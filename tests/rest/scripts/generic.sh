#!/bin/bash
set -e
# Configuration
ENTRYGUARD_API_KEY="${ENTRYGUARD_API_KEY}"
RESOURCE_ID="660e8400-e29b-41d4-a716-446655440001"
DURATION_HOURS=1
# Start session
echo "Starting EntryGuard session..."
RESPONSE=$(curl -s -X POST https://api.entryguard.io/api/v1/sessions \
-H "X-API-Key: ${ENTRYGUARD_API_KEY}" \
-H "Content-Type: application/json" \
-d "{
\"resourceIds\": [\"${RESOURCE_ID}\"],
\"durationHours\": ${DURATION_HOURS}
}")
SESSION_ID=$(echo $RESPONSE | jq -r '.id')
if [ -z "$SESSION_ID" ] || [ "$SESSION_ID" = "null" ]; then
echo "Failed to start session"
echo $RESPONSE
exit 1
fi
echo "Session started: ${SESSION_ID}"
# Cleanup function
cleanup() {
echo "Stopping EntryGuard session..."
curl -X POST https://api.entryguard.io/api/v1/sessions/${SESSION_ID}/stop \
-H "X-API-Key: ${ENTRYGUARD_API_KEY}"
echo "Session stopped"
}
# Register cleanup on exit
trap cleanup EXIT
# Wait for session to activate
echo "Waiting for IP rules to apply..."
sleep 10
# Run tests
echo "Running integration tests..."
npm run test:integration
echo "Tests completed successfully"
