"""A thin way to the API server: JSON in, JSON out, errors in the engine's terms, its clock heard."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final
from urllib.parse import unquote, urlencode

import aiohttp
from kubernetes.aio.client import ApiClient, ApiException
from kubernetes.aio.config import ConfigException

from gatepass.core.gateway import RefusedError
from gatepass.core.ports import ClusterError, ConflictError, GoneError
from gatepass.core.types.binding import PLURAL as BINDINGS
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import GROUP, VERSION, Custom
from gatepass.core.types.resource import PLURAL as RESOURCES
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import PLURAL as SESSIONS
from gatepass.core.types.session import AccessSession
from gatepass.kube.clock import CorrectedClock
from gatepass.kube.watches import CLIENT_SECONDS, SERVER_SECONDS, SILENT_SECONDS

JSON: Final = "application/json"
METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""Asks for an object without its spec, its data and its status."""
METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""The same for a list."""
TABLE: Final = "application/json;as=Table;g=meta.k8s.io;v=v1"
"""Asks for what `kubectl get -o wide` shows of them."""
MERGE_PATCH: Final = "application/merge-patch+json"
TIMEOUT_SECONDS: Final = 10.0
_PAGE: Final = 500
_PLURALS: Final[Mapping[type[Custom], str]] = {
    AccessSession: SESSIONS,
    ProtectedResource: RESOURCES,
    ApiKeyBinding: BINDINGS,
}


def path_of(kind: type[Custom], namespace: str = "", name: str = "", subresource: str = "") -> str:
    """The URL path of a custom resource, or of all of its kind."""
    parts = [f"/apis/{GROUP}/{VERSION}"]
    if namespace:
        parts.append(f"namespaces/{namespace}")
    parts += [part for part in (_PLURALS[kind], name, subresource) if part]
    return "/".join(parts)


def version_of(about: Custom) -> dict[str, Any]:
    """The uid and version that a write rests on: for its metadata, or the preconditions of a deletion."""
    return {"uid": about.uid, "resourceVersion": about.metadata.resource_version}


class KubeApi:
    """Calls of one API server. Raises GoneError for 404, ConflictError for 409, ClusterError for all else."""

    def __init__(self, client: ApiClient, clock: CorrectedClock) -> None:
        self._client = client
        self._clock = clock

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = JSON,
        query: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT_SECONDS,
        accept: str = JSON,
    ) -> dict[str, Any]:
        """One request and its answer, for the engine: raises GoneError, ConflictError or ClusterError."""
        try:
            return await self.answer(
                method, path, body, content_type=content_type, query=query, timeout=timeout, accept=accept
            )
        except RefusedError as error:
            raise _translated(error) from error

    async def answer(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = JSON,
        query: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT_SECONDS,
        token: str | None = None,
        accept: str = JSON,
    ) -> dict[str, Any]:
        """One request and its answer; raises RefusedError for a no, ClusterError when there is no answer.

        With a `token` it is its owner's request. A path that would be resolved to another one is refused.
        """
        url, headers = await self._addressed(method, path, query, token, accept)
        if body is not None:
            headers["Content-Type"] = content_type
        asked = self._clock.monotonic()
        try:
            answer = await self._client.rest_client.request(
                method, url, headers=headers, body=body, _request_timeout=timeout
            )
            data = await answer.read()
        except ApiException as error:
            raise _refused(error.status or 0, error.body or str(error)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ClusterError(f"{method} {path}: {error or type(error).__name__}") from error
        self._clock.heard(answer.getheader("Date"), asked)
        if answer.status >= 400:
            raise _refused(answer.status, data)
        try:
            parsed = json.loads(data) if data else {}
        except ValueError as error:
            raise ClusterError(f"{method} {path}: the answer is no JSON") from error
        return parsed if isinstance(parsed, dict) else {}

    async def _addressed(
        self, method: str, path: str, query: Mapping[str, str] | None, token: str | None, accept: str
    ) -> tuple[str, dict[str, str]]:
        """The URL and the headers of a request."""
        if any(segment in (".", "..") for segment in unquote(path).split("/")):
            raise ClusterError(f"{method}: not a path of an object: {path!r}")
        try:
            _, url, headers, *_ = await self._client.param_serialize(
                method,
                path,
                header_params={"Accept": accept},
                auth_settings=["BearerToken"] if token is None else [],
            )
        except (OSError, ConfigException) as error:  # the file of the service account's token, which is read anew
            raise ClusterError(f"{method} {path}: no token: {error}") from error
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return f"{url}?{urlencode(query)}" if query else url, headers

    async def watch(
        self,
        path: str,
        version: str,
        query: Mapping[str, str] | None = None,
        *,
        accept: str = JSON,
        silent_seconds: float = SILENT_SECONDS,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a collection from `version` on, with bookmarks, until the API server ends the watch.

        Raises RefusedError for a no, with status 410 when the version is too old, and ClusterError when the connection
        breaks, brings nothing for so long, or is not ended in time.
        """
        span = {"resourceVersion": version, "timeoutSeconds": str(SERVER_SECONDS)}
        asked = {**(query or {}), **span, "watch": "true", "allowWatchBookmarks": "true"}
        url, headers = await self._addressed("GET", path, asked, None, accept)
        patience = aiohttp.ClientTimeout(total=CLIENT_SECONDS, connect=TIMEOUT_SECONDS, sock_read=silent_seconds)
        try:
            answer = await self._client.rest_client.request("GET", url, headers=headers, _request_timeout=patience)
            if answer.status >= 400:
                raise _refused(answer.status, await answer.read())
            with _cut_off(answer.response):
                rest = b""
                async for piece in answer.response.content.iter_any():
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            raise _refused(int(event["object"].get("code") or 500), json.dumps(event["object"]))
                        yield event
        except ApiException as error:
            raise _refused(error.status or 0, error.body or str(error)) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ClusterError(f"watch {path}: {error or type(error).__name__}") from error

    async def every(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Every object of a collection, in pages; raises as `call` does."""
        async for page in self.listed(path):
            for item in page.get("items", ()):
                yield item

    def listed(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """The pages of a collection, each with the version to watch from; raises as `call` does."""
        return _pages(partial(self.call, "GET", path), {})

    def pages(
        self, path: str, query: Mapping[str, str] | None = None, *, accept: str = JSON
    ) -> AsyncIterator[dict[str, Any]]:
        """The pages of a collection, the last with the version to watch from; raises as `answer` does."""
        return _pages(partial(self.answer, "GET", path, accept=accept), query or {})

    async def each(self, kind: type[Custom], namespaces: Sequence[str]) -> AsyncIterator[dict[str, Any]]:
        """Every custom resource of a kind in some namespaces, or in all when none is named."""
        for namespace in namespaces or [""]:
            async for body in self.every(path_of(kind, namespace)):
                yield body


@contextmanager
def _cut_off(watch: aiohttp.ClientResponse) -> Iterator[None]:
    """At the end drop the connection of a watch, which would wait for a last word of the API server otherwise."""
    connection = watch.connection
    try:
        yield
    finally:
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
        watch.close()


async def _pages(
    ask: Callable[..., Coroutine[Any, Any, dict[str, Any]]], query: Mapping[str, str]
) -> AsyncGenerator[dict[str, Any], None]:
    """One page after the other; while one is read, the API server works on the next."""
    asked = {"limit": str(_PAGE), **query}
    coming = asyncio.create_task(ask(query=asked))
    try:
        while True:
            page = await coming
            following = page.get("metadata", {}).get("continue")
            if following:
                coming = asyncio.create_task(ask(query={**asked, "continue": following}))
                await asyncio.sleep(0)  # it is sent now, and not when the reader waits next
            yield page
            if not following:
                return
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


def _refused(status: int, body: str | bytes) -> RefusedError:
    try:
        told = json.loads(body)
        message = str(told.get("message") or body)
        found = (told.get("details") or {}).get("causes") or ()
        causes = {str(cause["field"]): str(cause.get("message", "")) for cause in found if cause.get("field")}
    except (ValueError, AttributeError):
        message, causes = str(body), {}
    return RefusedError(status, message[:1000], causes)


def _translated(error: RefusedError) -> ClusterError | GoneError:
    if error.status == 404:
        return GoneError(error.message)
    if error.status == 409:
        return ConflictError(error.message)
    return ClusterError(f"{error.status}: {error.message}")
