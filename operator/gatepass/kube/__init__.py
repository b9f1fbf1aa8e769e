"""The Kubernetes side: watching with kopf and without, writing with the official asynchronous client."""
