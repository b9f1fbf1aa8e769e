"""A TCP path on loopback that can be cut and mended: how the operator is partitioned from one of its servers."""

import asyncio
import contextlib
import json
import socket
import struct
import threading
from pathlib import Path
from typing import Literal, Self

from gatepass.sandbox.environment import Sandbox

_CHUNK = 65536


class Link:
    """Forwards a port of its own to `target`; use it in a `with`. `cut` and `mend` may be called from any thread.

    Cut silently, bytes are held back and new connections get no answer, as when packets are dropped; cut with a reset,
    every connection ends at once and new ones are refused, as when the other side is gone.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"link {target}", daemon=True)
        self._whole = asyncio.Event()
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._whole.set()
        self.port = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self, how: Literal["silent", "reset"]) -> None:
        """No byte passes any more."""
        self._loop.call_soon_threadsafe(self._cut, how)

    def silence(self) -> None:
        """Who is connected by now hears nothing more, and is not told; new connections are as good as ever."""
        self._loop.call_soon_threadsafe(self._silence)

    def mend(self) -> None:
        """All is well again; what was held back goes on."""
        self._loop.call_soon_threadsafe(self._mend)

    def _cut(self, how: str) -> None:
        self._whole.clear()
        if how == "reset":
            self._refusing = True
            for writer in self._writers:
                _reset(writer)

    def _silence(self) -> None:
        self._whole.clear()
        self._whole = asyncio.Event()
        self._whole.set()

    def _mend(self) -> None:
        self._refusing = False
        self._whole.set()

    async def _open(self) -> int:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.1)  # the transports that were aborted close in the next turns of the loop

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._refusing:
            _reset(writer)
            return
        ends, whole = {writer}, self._whole
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await whole.wait()
                there_reader, there = await asyncio.open_connection("127.0.0.1", self._target)
                ends.add(there)
                self._writers |= ends
                await asyncio.gather(_pump(reader, there, whole), _pump(there_reader, writer, whole))
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, whole: asyncio.Event) -> None:
    while data := await reader.read(_CHUNK):
        await whole.wait()
        writer.write(data)
        await writer.drain()
    await whole.wait()
    if writer.can_write_eof():
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a reset and not with an orderly end."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def kubeconfig_through(server: str, sandbox: Sandbox, name: str) -> Path:
    """The operator's kubeconfig, with this one between it and the API server."""
    given = json.loads(sandbox.operator_kubeconfig.read_text())
    given["clusters"][0]["cluster"]["server"] = server
    kubeconfig = sandbox.directory / f"{name}.kubeconfig"
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(json.dumps(given))
    return kubeconfig
