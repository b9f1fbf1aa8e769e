"""A thin asynchronous client: it must cost less than what it measures."""

import asyncio
import json
import ssl
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

SESSIONS = "/apis/gatepass.dev/v1alpha1/namespaces/{}/accesssessions"
MERGE_PATCH = "application/merge-patch+json"
CONNECTIONS = 64
AGAIN_SECONDS = 0.1


class RefusedError(Exception):
    """The API server refused a call of the benchmark."""


class Api:
    """One API server and one token; many calls at a time."""

    def __init__(self, server: str, ca: Path, token: str) -> None:
        self._http = aiohttp.ClientSession(
            server,
            headers={"Authorization": f"Bearer {token}"},
            connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(ca)), limit=CONNECTIONS),
            read_bufsize=2**20,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """The decoded answer; raises RefusedError."""
        content = None if body is None else json.dumps(body)
        async with self._http.request(method, path, data=content, headers={"Content-Type": content_type}) as answer:
            text = await answer.read()
            if answer.status >= 400:
                raise RefusedError(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
            decoded: dict[str, Any] = json.loads(text)
            return decoded

    def stream(self, path: str) -> aiohttp.client._RequestContextManager:
        """An answer that does not end."""
        return self._http.get(path, timeout=aiohttp.ClientTimeout(total=None))


class Watch:
    """Knows when each session of a namespace was first seen Ready, and when it was seen to go.

    Times are those of the monotonic clock of this process, in which the creates are timed too.
    """

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._path = SESSIONS.format(namespace)
        self._ready: defaultdict[str, asyncio.Future[float]] = defaultdict(asyncio.Future)
        self._gone: defaultdict[str, asyncio.Future[float]] = defaultdict(asyncio.Future)
        self._following = asyncio.Event()
        self._version: str | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow())
        await self._following.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def ready(self, name: str) -> float:
        """When it was first seen Ready."""
        return await self._ready[name]

    async def gone(self, name: str) -> float:
        """When it was seen to be deleted."""
        return await self._gone[name]

    async def _follow(self) -> None:
        # A busy API server ends watches: go on from where it was, or, if that is too long ago, from what there is now.
        while True:
            since = f"&resourceVersion={self._version}" if self._version else ""
            async with self._api.stream(f"{self._path}?watch=1{since}") as answer:
                if answer.status >= 400:
                    self._version = None
                    await asyncio.sleep(AGAIN_SECONDS)
                    continue
                self._following.set()
                async for line in answer.content:
                    self._see(json.loads(line), time.monotonic())

    def _see(self, event: Mapping[str, Any], now: float) -> None:
        seen = event["object"]
        self._version = seen["metadata"].get("resourceVersion") if event["type"] != "ERROR" else None
        name = seen["metadata"].get("name", "")
        if event["type"] == "DELETED":
            _settle(self._gone[name], now)
        elif is_ready(seen):
            _settle(self._ready[name], now)


def is_ready(seen: Mapping[str, Any]) -> bool:
    """Has the object the condition Ready, and is it true?"""
    conditions = seen.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _settle(future: asyncio.Future[float], now: float) -> None:
    if not future.done():
        future.set_result(now)
