curl https://api.entryguard.io/api/v1/health
