"""What the observer takes as a sign that the operator is there."""

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import pytest

from gatepass.sandbox.environment import Sandbox
from gatepass.sandbox.processes import free_ports
from tests.e2e.tenant import wait_for
from tests.observer.book import Holder
from tests.observer.streams import Asker, Heard, Permitted, Readiness, Ready

_numbers = count(1)


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


@pytest.mark.parametrize(
    ("binding", "same", "resource", "permitted"),
    [
        ("ci", True, "db", True),
        ("ci", True, "cache", False),
        ("ci", False, "db", False),
        ("other", True, "db", False),
    ],
)
def test_who_has_a_key_may_use_what_its_binding_names(
    sandbox: Sandbox, binding: str, same: bool, resource: str, permitted: bool
) -> None:
    kind = {"apiVersion": "gatepass.dev/v1alpha1", "kind": "ApiKeyBinding", "metadata": {"name": "ci"}}
    spec = {"keyHash": "0" * 64, "scopes": ["sessions:write"], "resources": [{"name": "db"}]}
    home = f"keys-{next(_numbers)}"
    with sandbox.control_plane.api() as api:
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": home}})
        try:
            path = f"/apis/gatepass.dev/v1alpha1/namespaces/{home}/apikeybindings"
            uid = api.request("POST", path, {**kind, "spec": spec})["metadata"]["uid"]
            stamp = {"username": f"gatepass:key:{home}/{binding}", "uid": uid if same else "another", "groups": []}
            annotations = {"gatepass.dev/requested-by": json.dumps(stamp)}
            heard: Heard = queue.SimpleQueue()
            asker = Asker(api, heard)
            asker.start()
            asker.ask(Holder("s", f"{home}/{resource}"), {"metadata": {"annotations": annotations}})
            found = heard.get(timeout=10)
            assert isinstance(found, Permitted)
            assert found.permitted == permitted
        finally:
            api.request("DELETE", f"/api/v1/namespaces/{home}")
