# Using an API key
curl -X POST https://api.entryguard.io/api/v1/sessions \
-H "X-API-Key: egk_1a2b3c4d5e6f7g8h9i0j" \
-H "Content-Type: application/json" \
-d '{
"durationHours": 2
}'
