"""The probes that the kubelet asks."""

from collections.abc import Callable, Sequence

from aiohttp import web


class Health:
    """`/healthz` answers while the event loop turns, and is well while every kind is followed wherever it is watched.

    `/readyz` is well once everything has been listed and is watched, until the operator ends. `dead` are the
    paths that nobody follows.
    """

    def __init__(self, ready: Callable[[], bool], dead: Callable[[], Sequence[str]]) -> None:
        self._ready = ready
        self._dead = dead
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self, host: str, port: int) -> None:
        """Listen; raises OSError when the port is taken."""
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        dead = self._dead()
        text = f"no longer watched: {', '.join(dead)}\n" if dead else "ok\n"
        return web.Response(text=text, status=503 if dead else 200)

    async def _readyz(self, _request: web.Request) -> web.Response:
        ready = self._ready()
        return web.Response(text="ok\n" if ready else "starting, or ending\n", status=200 if ready else 503)
