"""A request of which only a part arrives does nothing at all."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from gatepass.sandbox.environment import Sandbox
from tests.e2e.tenant import wait_for
from tests.rest.organisation import Organisation

SECONDS: Final = 30.0


@contextmanager
def part_of(sandbox: Sandbox, key: str, path: str, *header: str, body: bytes) -> Iterator[None]:
    """Sends so much of a POST, and hangs up in order once the server has had the time to look at it."""
    lines = (f"POST /api/v1{path} HTTP/1.1", "Host: gatepass", f"X-API-Key: {key}", *header, "", "")
    with socket.create_connection(("127.0.0.1", int(sandbox.env["GATEPASS_API_PORT"])), timeout=SECONDS) as connection:
        connection.sendall("\r\n".join(lines).encode() + body)
        yield
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""  # it hung up as well, without a word


def test_nothing_is_started_or_stopped(org: Organisation, sandbox: Sandbox) -> None:
    org.door()
    key, _ = org.key("sessions:read", "sessions:write")
    caller = org.by(key)
    started = caller.post("/sessions", json={"durationHours": 2}, headers={"Prefer": "wait=30"}).json()
    chunked = "Transfer-Encoding: chunked"
    whole = b'{"ipv4Address": "203.0.113.66"}'
    stop = f"/sessions/{started['id']}/stop"
    for path, header, body in (
        ("/sessions", f"Content-Length: {len(whole) + 1}", whole),
        ("/sessions", "Content-Length: 40", b'{"ipv4Address": "203.0'),
        ("/sessions", chunked, b"%x\r\n%s\r\n" % (len(whole), whole)),
        (stop, "Content-Length: 2", b""),
        (stop, chunked, b"2\r\n{}\r\n"),
        (f"/sessions/{started['id']}/extend", "Content-Length: 30", b'{"additionalHours": 1}'),
    ):
        with part_of(sandbox, key, path, header, body=body):
            caller.get("/health")  # read after what has come of the other
    # Whatever they had led to would have been known before this one is open.
    last = caller.post("/sessions", json={}, headers={"Prefer": "wait=30"}).json()
    there = {each["id"]: each["expiresAt"] for each in caller.get("/sessions").json() if each["endedAt"] is None}
    assert there == {each["id"]: each["expiresAt"] for each in (started, last)}
    caller.post(f"/sessions/{last['id']}/stop", headers={"Prefer": "wait=30"})


def test_a_stop_has_no_body_that_could_be_missing(org: Organisation, sandbox: Sandbox) -> None:
    """A trap that is killed has sent it, and does not wait for the answer."""
    org.door("cut")
    key, _ = org.key("sessions:read", "sessions:write")
    caller = org.by(key)
    answer = caller.post("/sessions", json={})
    assert answer.status_code == 200, answer.text
    started = answer.json()
    path = f"/api/v1/sessions/{started['id']}/stop"
    with socket.create_connection(("127.0.0.1", int(sandbox.env["GATEPASS_API_PORT"])), timeout=SECONDS) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: gatepass\r\nX-API-Key: {key}\r\n\r\n".encode())
    wait_for(lambda: caller.get(f"/sessions/{started['id']}").json()["status"] == "CANCELLED", "it has ended")
