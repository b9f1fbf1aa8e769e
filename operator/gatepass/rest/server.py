"""Serves the application until told to stop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.types import ASGIApp


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the process has handlers of its own


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, host: str, port: int) -> AsyncIterator[None]:
    """Answers while the context is open; raises OSError when the port is taken."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
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
