curl -X POST https://api.entryguard.io/api/v1/api-keys \
-H "Authorization: Bearer YOUR_ACCESS_TOKEN" \
-d '{
"name": "GitHub Actions CI",
"scopes": ["sessions:write"]
}'
