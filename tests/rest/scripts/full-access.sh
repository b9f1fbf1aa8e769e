curl -X POST https://api.entryguard.io/api/v1/api-keys \
-H "Authorization: Bearer YOUR_ACCESS_TOKEN" \
-H "Content-Type: application/json" \
-d '{
"name": "CI/CD Full Access",
"scopes": ["sessions:read", "sessions:write", "resources:read"]
}'
