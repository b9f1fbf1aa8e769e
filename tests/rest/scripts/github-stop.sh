curl -X POST https://api.entryguard.io/api/v1/sessions/${SESSION_ID}/stop \
-H "X-API-Key: ${ENTRYGUARD_API_KEY}"
