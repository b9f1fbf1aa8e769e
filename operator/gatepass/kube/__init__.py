"""The Kubernetes side: watching with kopf, writing with the official asynchronous client."""
