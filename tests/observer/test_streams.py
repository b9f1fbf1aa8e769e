"""What the observer takes as a sign that the operator is there."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from gatepass.sandbox.processes import free_ports
from tests.e2e.tenant import wait_for
from tests.observer.streams import Heard, Readiness, Ready


class Probed:
    """A process that answers probes with a status, and counts who has come."""

    def __init__(self, port: int, status: int) -> None:
        probed = self
        self.status, self.visits = status, 0

        class Handler(BaseHTTPRequestHandler):
            def handle(self) -> None:
                probed.visits += 1
                super().handle()

            def do_GET(self) -> None:
                self.send_response(probed.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)

    def visited(self) -> bool:
        """Has somebody come twice from now on, so that the first has gone with an answer?"""
        before = self.visits
        return bool(wait_for(lambda: self.visits > before + 1, "probes"))


@contextmanager
def probed(port: int, status: int) -> Iterator[Probed]:
    found = Probed(port, status)
    thread = threading.Thread(target=found.server.serve_forever, args=(0.01,))
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


def told(heard: Heard) -> bool:
    found = heard.get(timeout=10)
    assert isinstance(found, Ready)
    return found.ready


def test_who_has_been_ready_is_there_until_nobody_listens() -> None:
    heard: Heard = queue.SimpleQueue()
    (port,) = free_ports(1)
    Readiness(f"http://127.0.0.1:{port}/readyz", heard).start()
    with probed(port, 503) as operator:
        assert operator.visited()
        assert heard.empty(), "it has only been started"
        operator.status = 200
        assert told(heard)
        operator.status = 503
        assert operator.visited()
        assert heard.empty(), "what it says of itself is no excuse"
    assert not told(heard)
    with probed(port, 503) as operator:
        assert operator.visited()
        assert heard.empty(), "it is back when it is ready"
        operator.status = 200
        assert told(heard)
