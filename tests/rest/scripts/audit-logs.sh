curl -X GET "https://api.entryguard.io/api/v1/audit-logs?page=0&size=50" \
-H "Authorization: Bearer YOUR_TOKEN"
