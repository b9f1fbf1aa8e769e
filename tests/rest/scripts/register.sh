# Register new organization and admin user
curl -X POST https://api.entryguard.io/api/v1/auth/register \
-H "Content-Type: application/json" \
-d '{
"organizationName": "Acme Corp",
"email": "[email protected]",
"password": "SecurePass123!"
}'
