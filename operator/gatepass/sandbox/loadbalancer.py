"""A stand-in for a load balancer: passes requests on, and says whom it saw as a real one does.

`python -m gatepass.sandbox.loadbalancer PORT UPSTREAM CALLER` presents every caller as CALLER, an address that a
firewall could hold, which loopback is not.
"""

import asyncio
import sys
from typing import Final

import aiohttp
from aiohttp import web

_OWN: Final = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "proxy-connection", "host"}
_MADE_ANEW: Final = _OWN | {"content-length", "content-encoding"}


class LoadBalancer:
    """Appends to X-Forwarded-For, and leaves what was there."""

    def __init__(self, upstream: str, caller: str) -> None:
        self._upstream = upstream
        self._caller = caller

    async def start(self, port: int) -> None:
        """Serve on loopback."""
        self._session = aiohttp.ClientSession(
            auto_decompress=False, connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=120)
        )
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()

    async def _pass_on(self, request: web.Request) -> web.Response:
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _OWN]
        headers = [*headers, ("X-Forwarded-For", self._caller)]
        try:
            async with self._session.request(
                request.method,
                self._upstream + request.raw_path,
                headers=headers,
                data=await request.read() or None,
                allow_redirects=False,
            ) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return web.Response(status=502, text="the REST API does not answer\n")
        kept = [(name, value) for name, value in answer.headers.items() if name.lower() not in _MADE_ANEW]
        out = web.Response(status=answer.status, body=body)
        for name, value in kept:
            out.headers[name] = value
        return out


async def _main(port: int, upstream: str, caller: str) -> None:
    await LoadBalancer(upstream, caller).start(port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
