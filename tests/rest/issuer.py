"""An OIDC issuer on loopback: discovery, keys, and whatever goes wrong with them."""

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Iterable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

DISCOVERY, KEYS = "/.well-known/openid-configuration", "/keys"


class Issuer:
    """Signs tokens, and publishes the keys of `published`; by TLS with the certificate and key of a folder.

    `says` changes what discovery tells; `answers` replaces an answer: a status, headers and a body in pieces.
    """

    def __init__(self, certificates: Path | None = None, host: str = "127.0.0.1") -> None:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.answer(self)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.asked: list[str] = []
        self.says: dict[str, Any] = {}
        self.answers: dict[str, tuple[int, dict[str, str], Iterable[bytes]]] = {}
        self.down = False
        self.keys = {"first": _key("first")}
        self.published = ["first"]
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if certificates is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificates / "apiserver.crt", certificates / "apiserver.key")
            # The handshake is for the thread of the request: one that fails must not end the server's.
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'http' if certificates is None else 'https'}://{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        self.asked.append(request.path)
        if request.path in self.answers:
            status, headers, pieces = self.answers[request.path]
            request.send_response(status)
            for name, value in headers.items():
                request.send_header(name, value)
            request.end_headers()
            with contextlib.suppress(OSError):  # who asks need not listen to the end
                for piece in pieces:
                    request.wfile.write(piece)
            return
        told: dict[str, Any] = {"issuer": self.url, "jwks_uri": self.url + KEYS, **self.says}
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


@cache
def _key(kid: str) -> RSAKey:
    """One for each name: making one takes longer than most tests."""
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"})
