"""Connections that are kept open, and what becomes of them while nobody calls."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import Access, Credentials
from gatepass.providers.aws_security_group import AwsSecurityGroups
from gatepass.sandbox.cloud import MISLEADING
from tests.providers.worlds import Vault

ACCOUNT = "111122223333"
ACCESS = Access("aws", "eu-central-1", Credentials(secret=("team", "keys")))
BODY = (
    f"<GetCallerIdentityResponse><GetCallerIdentityResult><Account>{ACCOUNT}</Account></GetCallerIdentityResult>"
    "</GetCallerIdentityResponse>"
)
ANSWER = f"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}".encode()


class Endpoint:
    """An STS that answers once on each connection, and then closes it, or resets it when more comes."""

    def __init__(self) -> None:
        self.closes = False
        self.connections = 0
        self.closed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        writer.write(ANSWER)
        await writer.drain()
        if not self.closes and await reader.read(1):
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        writer.close()
        self.closed.set()


class Clock:
    """Monotonic seconds that tests move on."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
async def endpoint(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Endpoint]:
    found = Endpoint()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    for name in MISLEADING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    yield found
    server.close()
    await server.wait_closed()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def provider(endpoint: Endpoint, clock: Clock) -> Iterator[AwsSecurityGroups]:
    keys = {"aws_access_key_id": "AKIA0000000000000001", "aws_secret_access_key": "s"}
    made = AwsSecurityGroups(Vault({("team", "keys"): keys}), monotonic=clock)
    yield made
    made.close()


async def test_one_that_the_other_side_closed_is_opened_again(provider: AwsSecurityGroups, endpoint: Endpoint) -> None:
    endpoint.closes = True
    assert await provider.identify(ACCESS) == ACCOUNT
    await endpoint.closed.wait()
    assert await provider.identify(ACCESS) == ACCOUNT
    assert endpoint.connections == 2


async def test_one_that_was_silent_for_long_is_not_trusted(
    provider: AwsSecurityGroups, endpoint: Endpoint, clock: Clock
) -> None:
    assert await provider.identify(ACCESS) == ACCOUNT
    clock.seconds += 31
    assert await provider.identify(ACCESS) == ACCOUNT
    assert endpoint.connections == 2


async def test_one_that_was_just_used_is_used_again(
    provider: AwsSecurityGroups, endpoint: Endpoint, clock: Clock
) -> None:
    assert await provider.identify(ACCESS) == ACCOUNT
    clock.seconds += 29
    with pytest.raises(ProviderError, match="NoAnswer") as found:
        await provider.identify(ACCESS)
    assert found.value.failure is Failure.RETRY
    assert endpoint.connections == 1
