"""Each request has an id: its answer and the audit trail tell it."""

from contextvars import ContextVar
from uuid import uuid4

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-Id"
_current: ContextVar[str | None] = ContextVar("request_id", default=None)


def request_id() -> str | None:
    """That of the request which is being answered."""
    return _current.get()


class RequestIds:
    """Gives every request an id of our own: what a client sends may be anything, and another's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own = str(uuid4())
        _current.set(own)  # every request is served by a task, and so in a context, of its own

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = own
            await send(message)

        await self._app(scope, receive, told)
