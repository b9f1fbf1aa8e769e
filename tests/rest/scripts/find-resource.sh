curl https://api.entryguard.io/api/v1/resources \
-H "Authorization: Bearer YOUR_ACCESS_TOKEN"
