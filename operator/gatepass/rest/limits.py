"""Around every request: how many from one address, how large, and what HTTP and curl mean by theirs."""

import ipaddress
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gatepass.rest.address import Address, Network, caller
from gatepass.rest.allowance import Allowance
from gatepass.rest.errors import ApiError, answer

LARGEST_BODY: Final = 64 * 1024


class RateLimit:
    """So many requests a minute from each address; the headers on every answer say how many are left."""

    def __init__(self, app: ASGIApp, allowance: Allowance, trusted_proxies: Sequence[Network]) -> None:
        self._app = app
        self._allowance = allowance
        self._trusted_proxies = trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        allowed, stats = await self._allowance.take(_bucket(caller(scope, self._trusted_proxies)))
        headers = {
            "X-RateLimit-Limit": str(self._allowance.a_minute),
            "X-RateLimit-Remaining": str(stats.remaining),
            "X-RateLimit-Reset": str(int(stats.reset_time) + 1),
            "Cache-Control": "no-store",  # answers are of the moment, and one of them is a key
        }

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        if allowed:
            await self._app(scope, receive, told)
            return
        wait = max(int(stats.reset_time - time.time()) + 1, 1)
        error = ApiError(
            HTTPStatus.TOO_MANY_REQUESTS,
            "Rate limit exceeded. Please try again later.",
            headers={"Retry-After": str(wait)},
        )
        await answer(scope["path"], error)(scope, receive, told)


def _bucket(address: Address | None) -> str:
    """IPv6 hosts have a whole /64, and so as many addresses as they like."""
    if address is None or address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


class HeadIsGet:
    """HEAD is GET without the body, which the server leaves out: so ask load balancers and monitors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


class AnyBodyIsJson:
    """What curl -d sends says that it is a form: whatever it says, it is JSON here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
            scope = {**scope, "headers": [*others, (b"content-type", b"application/json")]}
        await self._app(scope, receive, send)


class BodyLimit:
    """No request is larger than a session of 32 resources could need; it is read before anything is done about it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await _whole(scope, receive)
        except ClientDisconnect:
            return  # what was cut off is no request: whoever sent it may have meant more, and does not hear an answer
        if body is None:
            error = ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {LARGEST_BODY} bytes")
            await answer(scope["path"], error)(scope, receive, send)
            return
        first: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def read() -> Message:
            nonlocal first
            message, first = first, None
            return message or await receive()

        await self._app(scope, read, send)


async def _whole(scope: Scope, receive: Receive) -> bytes | None:
    """The body; None when it is too large, whether it says so or goes on and on. Raises ClientDisconnect."""
    headers = dict(scope["headers"])
    declared = headers.get(b"content-length", b"0")
    if not declared.isdigit() or int(declared) > LARGEST_BODY:
        return None
    if int(declared) == 0 and b"transfer-encoding" not in headers:
        return b""  # also of a caller who has gone since: there is nothing that could be missing
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            return None
        if not message.get("more_body", False):
            return bytes(body)
