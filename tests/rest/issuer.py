"""An OIDC issuer on loopback: discovery, keys, and whatever goes wrong with them."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

DISCOVERY, KEYS = "/.well-known/openid-configuration", "/keys"


class Issuer:
    """Signs tokens, and publishes the keys of `published`."""

    def __init__(self) -> None:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.answer(self)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.asked: list[str] = []
        self.down = False
        self.keys = {"first": _key("first")}
        self.published = ["first"]
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        self.asked.append(request.path)
        told: dict[str, Any] = {"issuer": self.url, "jwks_uri": self.url + KEYS}
        if request.path == KEYS:
            told = dict(KeySet([self.keys[kid] for kid in self.published]).as_dict(private=False))
        body = json.dumps(told).encode()
        request.send_response(503 if self.down else 200)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def add(self, kid: str) -> None:
        """A new key, which is not published yet."""
        self.keys[kid] = _key(kid)

    def token(self, kid: str = "first", header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token that is good for five minutes, unless said otherwise; a claim that is None is left out."""
        now = int(time.time())
        given = {"iss": self.url, "sub": "repo:shop/backend", "iat": now, "nbf": now, "exp": now + 300, **claims}
        said = {name: value for name, value in given.items() if value is not None}
        return jwt.encode({"alg": "RS256", "kid": kid, **(header or {})}, said, self.keys[kid])


def _key(kid: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"})
