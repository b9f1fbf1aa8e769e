curl -X POST https://api.entryguard.io/api/v1/resources \
-H "Authorization: Bearer YOUR_TOKEN" \
-H "Content-Type: application/json" \
-d '{
"name": "Production Database",
"provider": "AWS",
"credentialId": "550e8400-e29b-41d4-a716-446655440000",
"config": {
"securityGroupId": "sg-0123456789abcdef0",
"region": "us-east-1"
}
}'
