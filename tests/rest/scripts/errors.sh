# Start session with error handling
RESPONSE=$(curl -s -w "\n%{http_code}" -X POST https://api.entryguard.io/api/v1/sessions \
-H "X-API-Key: ${ENTRYGUARD_API_KEY}" \
-H "Content-Type: application/json" \
-d "{\"resourceIds\": [\"${RESOURCE_ID}\"], \"durationHours\": 1}")
HTTP_CODE=$(echo "$RESPONSE" | tail -n1)
BODY=$(echo "$RESPONSE" | head -n-1)
if [ "$HTTP_CODE" -ne 200 ]; then
echo "Failed to start session (HTTP ${HTTP_CODE})"
echo "$BODY"
exit 1
fi
SESSION_ID=$(echo "$BODY" | jq -r '.id')
