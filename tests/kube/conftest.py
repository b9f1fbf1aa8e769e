"""The API server as our own client has it, and a wire to it that can be cut."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest
from kubernetes.aio.client import ApiClient, Configuration

from gatepass.kube.api import KubeApi
from gatepass.kube.clock import CorrectedClock
from gatepass.kube.operator import client_for
from gatepass.sandbox.environment import Sandbox


def client_of(sandbox: Sandbox, server: str, token: str = "") -> ApiClient:
    """A client of the sandbox's API server at this URL, for its admin unless another token is given."""
    configuration = Configuration(host=server)
    configuration.ssl_ca_cert = str(sandbox.control_plane.ca)
    configuration.api_key = {"BearerToken": f"Bearer {token or sandbox.control_plane.admin_token}"}
    return client_for(configuration, workers=4)


@pytest.fixture
async def api(sandbox: Sandbox) -> AsyncIterator[KubeApi]:
    """A way to the API server."""
    async with client_of(sandbox, sandbox.control_plane.server) as client:
        yield KubeApi(client, CorrectedClock())


class Wire:
    """Forwards bytes to a port. While it is `silent`, requests arrive and answers do not come back."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self.silent = False

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side closes it."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ends = [writer]
        try:
            there, thither = await asyncio.open_connection("127.0.0.1", self._port)
            ends.append(thither)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pipe(reader, thither, answers=False))
                both.create_task(self._pipe(there, writer, answers=True))
        except asyncio.CancelledError:  # by `cut`
            for each in ends:
                each.transport.abort()
        finally:
            for each in ends:
                each.close()
            for each in ends:
                with suppress(OSError):
                    await each.wait_closed()
            self._tasks.discard(task)

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        try:
            while data := await source.read(65536):
                if not (answers and self.silent):
                    sink.write(data)
                    await sink.drain()
        except ConnectionError:
            pass
        sink.close()

    async def cut(self) -> None:
        """End all connections."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)


@pytest.fixture
async def wire(sandbox: Sandbox) -> AsyncIterator[tuple[Wire, KubeApi]]:
    """A wire, and the API server at its other end."""
    wire = Wire(urlsplit(sandbox.control_plane.server).port or 0)
    server = await asyncio.start_server(wire.carry, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with client_of(sandbox, f"https://127.0.0.1:{port}") as client:
        yield wire, KubeApi(client, CorrectedClock())
    server.close()
    await server.wait_closed()
    await wire.cut()
