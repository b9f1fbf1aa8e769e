# Start a session for production database access
RESPONSE=$(curl -s -X POST https://api.entryguard.io/api/v1/sessions \
-H "X-API-Key: ${ENTRYGUARD_API_KEY}" \
-H "Content-Type: application/json" \
-d '{
"resourceIds": ["660e8400-e29b-41d4-a716-446655440001"],
"durationHours": 1
}')
# Extract session ID
SESSION_ID=$(echo $RESPONSE | jq -r '.id')
echo "session_id=${SESSION_ID}" >> $GITHUB_OUTPUT
# Wait for session to become active
echo "Waiting for session to activate..."
sleep 10
