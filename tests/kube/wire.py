"""A wire to the API server that can go dead without anybody hanging up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from gatepass.sandbox.environment import Sandbox


class Wire:
    """Forwards TCP connections, each of them open or silent."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepted: set[asyncio.StreamWriter] = set()
        self.port = 0

    def silence(self) -> None:
        """What is connected stays connected and brings nothing; new connections are served."""
        self._open.clear()
        self._open = asyncio.Event()
        self._open.set()

    def cut(self) -> None:
        """Nothing that is connected, now or later, brings anything."""
        self._open.clear()

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        """Serve on `port`."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        yield
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._accepted:  # also of who came too late to be served
            writer.transport.abort()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._accepted.add(writer)
        task = asyncio.create_task(self._serve(reader, writer, self._open))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, opened: asyncio.Event) -> None:
        onwards, back = await asyncio.open_connection("127.0.0.1", self._to)
        pumps = [asyncio.create_task(_pump(*way, opened)) for way in ((reader, back), (onwards, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for end in (writer, back):
                end.close()
            for end in (writer, back):
                with suppress(OSError):
                    await end.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, opened: asyncio.Event) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            await opened.wait()
            writer.write(data)
            await writer.drain()


def wire_to(sandbox: Sandbox) -> Wire:
    """One to the sandbox's API server."""
    return Wire(int(sandbox.control_plane.server.rpartition(":")[2]))
