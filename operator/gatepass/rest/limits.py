"""Bounds on every request: how many from one address, and how large."""

import time
from http import HTTPStatus
from typing import Final

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gatepass.rest.address import caller
from gatepass.rest.context import RestSettings
from gatepass.rest.errors import ApiError, answer

LARGEST_BODY: Final = 64 * 1024


class RateLimit:
    """So many requests a minute from each address; the headers on every answer say how many are left."""

    def __init__(self, app: ASGIApp, settings: RestSettings) -> None:
        self._app = app
        self._settings = settings
        self._limit = RateLimitItemPerMinute(settings.rate_limit)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        who = str(caller(scope, self._settings.trusted_proxies))
        allowed = await self._limiter.hit(self._limit, who)
        stats = await self._limiter.get_window_stats(self._limit, who)
        headers = {
            "X-RateLimit-Limit": str(self._limit.amount),
            "X-RateLimit-Remaining": str(stats.remaining),
            "X-RateLimit-Reset": str(int(stats.reset_time) + 1),
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


class AnyBodyIsJson:
    """What curl -d sends says that it is a form: whatever it says, it is JSON here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
            scope = {**scope, "headers": [*others, (b"content-type", b"application/json")]}
        await self._app(scope, receive, send)


class _TooLargeError(Exception):
    """The body goes on and on."""


class BodyLimit:
    """No request is larger than a session of 32 resources could need."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {LARGEST_BODY} bytes")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > LARGEST_BODY:
            await answer(scope["path"], error)(scope, receive, send)
            return
        size = 0
        started = False

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > LARGEST_BODY:
                raise _TooLargeError
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except _TooLargeError:
            if not started:
                await answer(scope["path"], error)(scope, receive, send)
