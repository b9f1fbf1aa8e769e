# Key for monitoring dashboard
curl -X POST https://api.entryguard.io/api/v1/api-keys \
-d '{"name": "Dashboard", "scopes": ["sessions:read", "resources:read"]}'
# Key for CI/CD
curl -X POST https://api.entryguard.io/api/v1/api-keys \
-d '{"name": "GitHub Actions", "scopes": ["sessions:write"]}'
# Key for audit log export
curl -X POST https://api.entryguard.io/api/v1/api-keys \
-d '{"name": "SIEM Integration", "scopes": ["audit:read"]}'
