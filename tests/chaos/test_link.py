"""The path that chaos cuts: what a client on it sees."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.chaos.link import Link


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(ConnectionResetError):
            for line in self.rfile:
                self.wfile.write(line)


@pytest.fixture
def link() -> Iterator[Link]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Link(server.server_address[1]) as link:
            yield link
        server.shutdown()


def connect(link: Link, seconds: float = 60.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), timeout=seconds)


def said(client: socket.socket, text: bytes) -> bytes:
    client.sendall(text + b"\n")
    return client.recv(100)


def test_it_forwards_both_ways(link: Link) -> None:
    with connect(link) as client:
        assert said(client, b"hello") == b"hello\n"


def test_a_silent_cut_holds_everything_back_until_it_is_mended(link: Link) -> None:
    with connect(link) as client, connect(link) as late:
        assert said(client, b"hello") == b"hello\n"
        link.cut("silent")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            said(client, b"is anybody there")
        client.settimeout(60)
        link.mend()
        assert client.recv(100) == b"is anybody there\n"
        assert said(late, b"hello") == b"hello\n"


def test_a_reset_ends_what_is_open_and_refuses_what_comes(link: Link) -> None:
    with connect(link) as client:
        assert said(client, b"hello") == b"hello\n"
        link.cut("reset")
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    with pytest.raises(ConnectionResetError), connect(link) as refused:
        refused.recv(100)
    link.mend()
    with connect(link) as client:
        assert said(client, b"again") == b"again\n"
