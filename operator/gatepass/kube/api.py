"""A thin way to the API server: JSON in, JSON out, errors in the engine's terms, its clock heard."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote, urlencode

import aiohttp
from kubernetes.aio.client import ApiClient, ApiException

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

JSON: Final = "application/json"
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
    ) -> dict[str, Any]:
        """One request and its answer, for the engine: raises GoneError, ConflictError or ClusterError."""
        try:
            return await self.answer(method, path, body, content_type=content_type, query=query, timeout=timeout)
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
    ) -> dict[str, Any]:
        """One request and its answer; raises RefusedError for a no, ClusterError when there is no answer.

        With a `token` it is its owner's request. A path that would be resolved to another one is refused.
        """
        if any(segment in (".", "..") for segment in unquote(path).split("/")):
            raise ClusterError(f"{method}: not a path of an object: {path!r}")
        _, url, headers, *_ = await self._client.param_serialize(
            method,
            path,
            header_params={"Accept": JSON},
            auth_settings=["BearerToken"] if token is None else [],
        )
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = content_type
        if query:
            url = f"{url}?{urlencode(query)}"
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
        parsed = json.loads(data) if data else {}
        return parsed if isinstance(parsed, dict) else {}

    async def every(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """Every object of a collection, in pages."""
        query = {"limit": str(_PAGE)}
        while True:
            page = await self.call("GET", path, query=query)
            for item in page.get("items", ()):
                yield item
            following = page.get("metadata", {}).get("continue")
            if not following:
                return
            query["continue"] = following

    async def each(self, kind: type[Custom], namespaces: Sequence[str]) -> AsyncIterator[dict[str, Any]]:
        """Every custom resource of a kind in some namespaces, or in all when none is named."""
        for namespace in namespaces or [""]:
            async for body in self.every(path_of(kind, namespace)):
                yield body


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
