"""Echo services of loopback, which say an address that they are told to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6
from threading import Thread


class _Server6(ThreadingHTTPServer):
    address_family = AF_INET6


@contextmanager
def echo(answer: str | Callable[[], str]) -> Iterator[str]:
    """A service that says so over IPv4, and its URL."""
    with _serving(ThreadingHTTPServer, "127.0.0.1", answer) as port:
        yield f"http://127.0.0.1:{port}/ip"


@contextmanager
def echo6(answer: str | Callable[[], str]) -> Iterator[str]:
    """One that says so over IPv6."""
    with _serving(_Server6, "::1", answer) as port:
        yield f"http://[::1]:{port}/ip"


@contextmanager
def _serving(kind: type[ThreadingHTTPServer], host: str, answer: str | Callable[[], str]) -> Iterator[int]:

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write((answer if isinstance(answer, str) else answer()).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 its name there
            return

    server = kind((host, 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
