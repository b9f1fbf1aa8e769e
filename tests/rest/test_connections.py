"""Whoever calls the REST API takes nothing from the operator's own work, however long the API server thinks."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager

import aiohttp
import pytest
from aiohttp import web

from gatepass.kube.reviews import TOKEN_PATH
from gatepass.sandbox.environment import Sandbox
from tests.chaos.link import kubeconfig_through
from tests.conftest import AwsAccount
from tests.e2e.conftest import at_work
from tests.e2e.meanwhile import meanwhile
from tests.e2e.product import Product
from tests.e2e.replicas import Replica
from tests.e2e.tenant import Tenant, wait_for
from tests.sandbox.aws import new_group

CALLERS = 150
CONNECTIONS = 64
_OF_THE_CONNECTION = ("host", "content-length", "transfer-encoding", "connection")


class Undecided:
    """The API server, but that it never says whose a token is: its webhook for that hangs."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._target = sandbox.control_plane.server
        self.port: Future[int] = Future()
        self.asked = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == TOKEN_PATH:
            self.asked += 1
            await self._end.wait()
            raise web.HTTPServiceUnavailable
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OF_THE_CONNECTION}
        url, body = self._target + request.path_qs, await request.read() or None
        async with self._session.request(request.method, url, headers=headers, data=body) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _OF_THE_CONNECTION}
            response = web.StreamResponse(status=answer.status, headers=kept)
            with contextlib.suppress(ConnectionError):  # who asked has gone
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
        return response

    def end(self) -> None:
        """Serve no more; any thread may say so."""
        self._loop.call_soon_threadsafe(self._end.set)

    async def serve(self) -> None:
        """Until `end`; tells its port."""
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        unchecked = ssl.create_default_context()
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        connector = aiohttp.TCPConnector(limit=0, ssl=unchecked)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as self._session:
            app = web.Application(client_max_size=0)
            app.router.add_route("*", "/{path:.*}", self.answer)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.port.set_result(runner.addresses[0][1])
            await self._end.wait()
            await runner.cleanup()


@contextmanager
def in_a_thread(undecided: Undecided) -> Iterator[int]:
    """It serves while the body runs, on this port."""
    thread = threading.Thread(target=lambda: asyncio.run(undecided.serve()), daemon=True)
    thread.start()
    try:
        yield undecided.port.result(30)
    finally:
        undecided.end()
        thread.join()


def callers(port: int) -> AbstractContextManager[None]:
    """Many who show tokens of nobody, again and again, meanwhile."""

    async def call(session: aiohttp.ClientSession, number: int) -> None:
        headers = {"Authorization": f"Bearer nobodys-{number}"}
        while True:
            async with session.get(f"http://127.0.0.1:{port}/api/v1/sessions", headers=headers):
                pass

    async def all_of_them(over: threading.Event) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            calls = [asyncio.create_task(call(session, number)) for number in range(CALLERS)]
            await asyncio.to_thread(over.wait)
            for each in calls:
                each.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    return meanwhile(lambda over: asyncio.run(all_of_them(over)))


@pytest.fixture
def tenant(service: Product, sandbox: Sandbox) -> Iterator[Tenant]:
    with at_work(sandbox) as tenant:
        yield tenant


def test_tokens_that_nobody_judges_hold_up_no_session_and_cost_no_lease(
    tenant: Tenant, service: Product, sandbox: Sandbox, account: AwsAccount
) -> None:
    undecided = Undecided(sandbox)
    service.stop()
    with ExitStack() as stack:
        stack.callback(service.start)
        port = stack.enter_context(in_a_thread(undecided))
        options = ["--kubeconfig", str(kubeconfig_through(f"http://127.0.0.1:{port}", sandbox, "undecided"))]
        other = Replica(sandbox, "e", "serve", options, GATEPASS_RATE_LIMIT="1000000")
        stack.callback(other.reap)
        stack.callback(other.terminate)
        other.start()
        tenant.resource(new_group(account.client("ec2")))
        with callers(other.api_port):
            # Twice as many are given up, each after ten seconds: a lease that nobody renews is lost by then.
            wait_for(lambda: undecided.asked > 2 * CONNECTIONS, "they come again", 90)
            tenant.until_phase(tenant.session(), "Active")
            assert other.alive
            tenant.until_stopped("it-1")
