"""Serves the application until told to stop."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE_SECONDS: Final = 30.0
"""How long a request may take to arrive, from its first byte to its last."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the process has handlers of its own


class _Connection(H11Protocol):
    """Hangs up on who never gets to the end of a request: uvicorn waits for ever, and each who waits takes memory."""

    def __init__(self, patience: float, **given: Any) -> None:
        super().__init__(**given)
        self._patience = patience
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        # Who says nothing at all has as long as who says nothing more.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._wait(False)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait(self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.transport.is_closing())

    def _wait(self, more: bool) -> None:
        """For more of a request, or not."""
        if more and self._late is None:
            self._late = self.loop.call_later(self._patience, self.transport.close)
        elif not more and self._late is not None:
            self._late.cancel()
            self._late = None


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, host: str, port: int, patience: float = PATIENCE_SECONDS) -> AsyncIterator[None]:
    """Answers while the context is open, who sends a request within `patience` seconds; OSError: the port is taken."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=functools.partial(_Connection, patience),  # type: ignore[arg-type]  # it only calls it
        log_config=None,
        access_log=False,
        proxy_headers=False,  # who calls is ours to find out
        server_header=False,
        lifespan="off",
        # Longer than load balancers keep an idle connection, 60 s mostly: who closes first may cut the other's request.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve())
    try:
        while not server.started:
            if task.done():
                task.result()
                raise OSError(f"cannot serve on {host}:{port}")
            await asyncio.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        await task
