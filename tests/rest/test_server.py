"""How long a connection is waited for; by the real server, on a socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from starlette.types import Receive, Scope, Send

from gatepass.rest.server import serving
from gatepass.sandbox.processes import free_ports

HEAD = b"POST / HTTP/1.1\r\nHost: gatepass\r\n"
BODY = HEAD + b"Content-Length: 4\r\n\r\n"
LONG = 3600.0
SECONDS = 30.0


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the whole body; not at all when it is cut off."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def connected(patience: float) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    (port,) = free_ports(1)
    async with serving(app, "127.0.0.1", port, patience):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(SECONDS):
                yield reader, writer
        finally:
            writer.close()


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("part", [b"P", HEAD, BODY, BODY + b"abc"])
async def test_who_never_gets_to_the_end_is_hung_up_on(part: bytes, before: int) -> None:
    """In the second request as in the first."""
    async with connected(patience=0.1) as (reader, writer):
        for _ in range(before):
            writer.write(BODY + b"abcd")
            assert (await reader.readuntil(b"abcd")).startswith(b"HTTP/1.1 200")
        writer.write(part)
        assert await reader.read() == b""


async def test_saying_a_little_more_wins_no_time() -> None:
    async with connected(patience=0.1) as (reader, writer):
        writer.write(HEAD)
        ended = asyncio.create_task(reader.read())
        while not (await asyncio.wait({ended}, timeout=0.01))[0]:
            writer.write(b"X: y\r\n")
        with suppress(ConnectionResetError):  # by what was written after that
            assert await ended == b""


async def test_a_request_may_come_in_pieces() -> None:
    async with connected(patience=LONG) as (reader, writer):
        for piece in (HEAD, b"Content-Length: 4\r\n\r\n", b"ab", b"cd") * 2:
            writer.write(piece)
            await writer.drain()
        for _ in range(2):
            assert (await reader.readuntil(b"abcd")).startswith(b"HTTP/1.1 200")


async def test_the_answer_is_not_waited_for_but_the_request() -> None:
    async with connected(patience=0) as (reader, writer):
        for _ in range(2):
            writer.write(BODY + b"abcd")
            assert (await reader.readuntil(b"abcd")).startswith(b"HTTP/1.1 200")
