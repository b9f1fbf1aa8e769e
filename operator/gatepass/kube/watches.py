"""Are the watches alive, and where do they begin? kopf ends one that is silent, and begins it anew.

kopf 1.45.2 drops a stream that brings nothing for `watching.inactivity_timeout`, bookmarks included, which the API
server sends every minute. It tells nobody: hence an HTTP session whose requests are heard. A watch that has no version
to begin at would bring every object once more: hence the version of our own listing.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import kopf
import structlog

from gatepass.core.ports import ClusterError, GoneError
from gatepass.core.types.binding import PLURAL as BINDINGS
from gatepass.core.types.resource import PLURAL as RESOURCES
from gatepass.core.types.session import PLURAL as SESSIONS

log = structlog.get_logger(__name__)

SILENT_SECONDS: Final = 70.0
"""A watch that brings nothing for so long is begun anew, the listing before it included; bookmarks come every 60 s."""
SERVER_SECONDS: Final = 300
"""How long a watch lasts that goes well."""
CLIENT_SECONDS: Final = SERVER_SECONDS + 10
"""The same where whoever answers does not end it."""
_CONNECT_SECONDS: Final = 10.0
_BACKOFFS: Final = (1.0,) * 54
"""As long as kopf's own, and not ever slower: what has ended while nothing answered is still open."""
_DEAD_SECONDS: Final = CLIENT_SECONDS + 60
"""Something has begun by then, whatever the network and the API server do."""
_INITIAL: Final = "sendInitialEvents"
_KINDS: Final = frozenset({SESSIONS, RESOURCES, BINDINGS, "namespaces"})

Since = Callable[[str], Awaitable[str | None]]


class Watches:
    """Hears of the requests that watches begin with. `silent_seconds` is how long one may bring nothing."""

    def __init__(self, silent_seconds: float = SILENT_SECONDS, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.silent_seconds = silent_seconds
        self._monotonic = monotonic
        self._begun: dict[str, float] = {}
        self._watched: dict[str, float] = {}

    def configure(self, settings: kopf.OperatorSettings) -> None:
        """Give no request more time than a live API server needs."""
        settings.watching.server_timeout = SERVER_SECONDS
        settings.watching.client_timeout = CLIENT_SECONDS
        settings.watching.inactivity_timeout = self.silent_seconds
        settings.watching.initial_streaming = True  # which `session` makes a watch from our own listing
        settings.networking.connect_timeout = _CONNECT_SECONDS
        settings.networking.request_timeout = self.silent_seconds
        settings.networking.error_backoffs = _BACKOFFS

    def session(self, info: kopf.ConnectionInfo, since: Since) -> kopf.AiohttpSession:
        """An HTTP session like kopf's own, whose requests are heard, and whose watches begin where `since` says.

        kopf closes it.
        """
        heard = aiohttp.TraceConfig()
        heard.on_request_start.append(self._request)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
            headers=info.as_http_headers(),
            proxy=info.proxy_url,
            trace_configs=[heard],
            middlewares=[partial(_begin_where_listed, since, urlsplit(info.server).path.rstrip("/"))],
        )
        return kopf.AiohttpSession(server=info.server, aiohttp_session=session)

    async def _request(self, _session: object, _context: object, request: aiohttp.TraceRequestStartParams) -> None:
        self.begun(request.url.path, watch="watch" in request.url.query)

    def begun(self, path: str, *, watch: bool) -> None:
        """A request for this path begins: a `watch`, or the listing before it."""
        now = self._monotonic()
        if _kind(path) not in _KINDS:
            return
        self._begun[path] = now
        if watch:
            lasted = now - self._watched.get(path, float("-inf"))
            if lasted < SERVER_SECONDS - 1:
                log.info("watch was silent or broke, and is begun anew", path=path, seconds=round(lasted))
            self._watched[path] = now

    def ages(self) -> Mapping[str, float]:
        """Seconds since objects of each kind were last asked for, in the namespace where that is longest ago."""
        now = self._monotonic()
        ages: dict[str, float] = {}
        for path, at in self._begun.items():
            ages[_kind(path)] = max(now - at, ages.get(_kind(path), 0.0))
        return ages

    def dead(self) -> list[str]:
        """The paths that nobody follows any more; none while the API server is just not there."""
        now = self._monotonic()
        return [path for path, at in sorted(self._begun.items()) if now - at > _DEAD_SECONDS]


def _kind(path: str) -> str:
    return path.rpartition("/")[2]


async def _begin_where_listed(
    since: Since, base: str, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Where kopf asks for all objects and what happens to them then, ask only for what happens since our listing."""
    if _INITIAL in request.url.query:
        path = request.url.path.removeprefix(base)
        try:
            version = await since(path)
        except (ClusterError, GoneError) as error:
            raise aiohttp.ClientConnectionError(f"cannot list {path}: {error}") from error  # kopf tries that again
        if version is not None:
            begun = request.url.without_query_params(_INITIAL, "resourceVersionMatch")
            request.url = begun.update_query(resourceVersion=version)
    return await send(request)
