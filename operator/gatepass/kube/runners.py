"""Follows what sessions end with: the kinds that they are bound to, and the Leases of their hearts.

One watch for each kind (and served namespace), from the first session that needs it until a minute after the last. Who
has finished is told by `core.owners`; of each object no more is kept than that and its uid.
"""

import asyncio
import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NoReturn
from urllib.parse import quote

import structlog

from gatepass.core.gateway import RefusedError
from gatepass.core.owners import Kind, Sighting, finished, signs_of
from gatepass.core.policy import Refusal
from gatepass.core.ports import ClusterError
from gatepass.core.types.common import Key, parse_time
from gatepass.core.types.ends import SESSION_LABEL
from gatepass.engine.ends import Ends
from gatepass.kube.api import JSON, METADATA, METADATA_LIST, KubeApi
from gatepass.kube.cluster import leases_path, renewed_at
from gatepass.kube.handlers import identity
from gatepass.kube.watches import SILENT_SECONDS

log = structlog.get_logger(__name__)

FIRST_RETRY_SECONDS: Final = 0.5
"""Also how soon an API server that is back is noticed: what has finished meanwhile has to close."""
LAST_RETRY_SECONDS: Final = 10.0
"""How soon a kind is looked for again whose definition is installed later, or that it is allowed to follow later."""
_SERVED_SECONDS: Final = 1.0
"""How long it is taken as known what the API server serves: many kinds that are not there may be looked for."""
_UNSERVED_SECONDS: Final = 0.1
LINGER_SECONDS: Final = 60.0
MOST_KINDS: Final = 32
"""Each takes a connection for each served namespace. Those that are not there, or may not be watched, do not count."""
MOST_SOUGHT: Final = 5000
"""With those that are not there."""

Body = Mapping[str, Any]


class _AgainError(Exception):
    """Somebody wants a fresh listing."""


@dataclass(slots=True)
class Feed:
    """What to list and watch, and whom to tell: of a listing, when it began; of a change, its type and the object."""

    paths: Sequence[str]
    listed: Callable[[Sequence[Any], float], None]
    happened: Callable[[str, Body], None]
    kept: Callable[[Body], Any]
    selector: Mapping[str, str] = field(default_factory=dict)
    metadata_only: bool = False
    again: asyncio.Event = field(default_factory=asyncio.Event)


async def follow(api: KubeApi, feed: Feed, silent_seconds: float, listed: Callable[[], None]) -> NoReturn:
    """List, and watch from there; `listed` is called after each listing.

    Raises RefusedError and ClusterError when events may have been lost, and _AgainError when a listing is wanted.
    """
    feed.again.clear()
    began, found, versions = time.monotonic(), [], {}
    for path in feed.paths:
        accept = METADATA_LIST if feed.metadata_only else JSON
        async for page in api.pages(path, feed.selector, accept=accept):
            found += [feed.kept(item) for item in page.get("items", ())]
            versions[path] = str(page["metadata"]["resourceVersion"])
    feed.listed(found, began)
    listed()
    tasks = [asyncio.create_task(_watch(api, feed, path, versions[path], silent_seconds)) for path in feed.paths]
    tasks.append(asyncio.create_task(_wait(feed.again)))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        done.pop().result()
        raise AssertionError("a watch ends with an error only")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(api: KubeApi, feed: Feed, path: str, version: str, silent_seconds: float) -> NoReturn:
    accept = METADATA if feed.metadata_only else JSON
    while True:  # a watch that the API server ends in order goes on where it was
        began = time.monotonic()
        watch = api.watch(path, version, feed.selector, accept=accept, silent_seconds=silent_seconds)
        async with contextlib.aclosing(watch) as events:
            async for event in events:
                body = event["object"]
                version = body["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    feed.happened(event["type"], body)
        if time.monotonic() < began + 1.0:
            raise ClusterError(f"watch {path}: it ended as soon as it had begun")


async def _wait(again: asyncio.Event) -> NoReturn:
    await again.wait()
    raise _AgainError


class _Discovery:
    """What the API server serves: one question for all groups, and one for each that there is and somebody wants.

    Answers are kept for a second, so that kinds that nobody has ever heard of cost nothing, however many they are.
    """

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._asking: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._answers: dict[str, tuple[float, Body | RefusedError | ClusterError]] = {}

    async def path(self, kind: Kind) -> tuple[str, str]:
        """The path of the group and version of a kind, and its plural there.

        Raises ClusterError, and RefusedError: 404 when no such kind lives in a namespace.
        """
        base = f"/apis/{quote(kind.api_version)}" if kind.group else f"/api/{quote(kind.api_version)}"
        if await self._serves(kind):
            for each in (await self._ask(base)).get("resources", ()):
                if each["kind"] == kind.kind and "/" not in each["name"] and each["namespaced"]:
                    return base, each["name"]
        raise RefusedError(404, f"there is no {kind} that lives in a namespace")

    async def _serves(self, kind: Kind) -> bool:
        if not kind.group:
            return kind.api_version in (await self._ask("/api")).get("versions", ())
        groups = (await self._ask("/apis")).get("groups", ())
        return any(version["groupVersion"] == kind.api_version for group in groups for version in group["versions"])

    async def _ask(self, path: str) -> Body:
        async with self._asking[path]:
            time_of = asyncio.get_running_loop().time
            until, answer = self._answers.get(path, (-math.inf, {}))
            if time_of() >= until:
                kept = _SERVED_SECONDS
                try:
                    answer = await self._api.answer("GET", path)
                except RefusedError as error:
                    answer = error
                except ClusterError as error:
                    answer, kept = error, _UNSERVED_SECONDS
                self._answers[path] = time_of() + kept, answer  # also for those who have waited for a slow one
        if isinstance(answer, Exception):
            raise answer.with_traceback(None)
        return answer


class Runners:
    """Follows what `ends` asks for, in some namespaces or in all when none is named."""

    def __init__(
        self,
        api: KubeApi,
        ends: Ends,
        namespaces: Sequence[str],
        *,
        silent_seconds: float = SILENT_SECONDS,
        linger_seconds: float = LINGER_SECONDS,
    ) -> None:
        self._api = api
        self._ends = ends
        self._served = namespaces or [""]
        self._silent_seconds = silent_seconds
        self._linger_seconds = linger_seconds
        self._discovery = _Discovery(api)
        self._places = asyncio.Semaphore(MOST_KINDS)
        self._placed: set[Kind] = set()
        self._tasks: dict[Kind, asyncio.Task[NoReturn]] = {}
        self._feeds: dict[Kind, Feed] = {}
        self._unused: dict[Kind, float] = {}
        self._broken: asyncio.Task[NoReturn] | None = None

    async def run(self) -> NoReturn:
        """Follow until cancelled. What it follows is the truth from its first listing on, so begin it as a leader."""
        try:
            while True:
                self._ends.changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._adapt()):
                        await self._ends.changed.wait()
                if self._broken is not None:
                    self._broken.result()  # a defect ends the operator, which is started again
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _adapt(self) -> float | None:
        """Start and stop, and answer in how many seconds to look again."""
        now = time.monotonic()
        wanted = {*self._ends.kinds, *([LEASES] if self._ends.beating else [])}
        for kind in self._tasks.keys() - wanted:
            if now >= self._unused.setdefault(kind, now) + self._linger_seconds:
                self._tasks.pop(kind).cancel()
                self._feeds.pop(kind, None)
                self._leave(kind)
                del self._unused[kind]
                if kind == LEASES:
                    self._ends.leases_dropped()
                else:
                    self._ends.dropped(kind)
        for kind in self._unused.keys() & wanted:
            del self._unused[kind]
        for kind in sorted(wanted - self._tasks.keys()):
            if len(self._tasks) >= MOST_SOUGHT and kind != LEASES:
                self._ends.unfollowed(kind, Refusal("TooManyKinds", f"{MOST_SOUGHT} kinds are looked for already"))
                continue
            follow = self._follow_leases() if kind == LEASES else self._follow_kind(kind)
            self._tasks[kind] = asyncio.create_task(follow, name=f"follow {kind}")
            self._tasks[kind].add_done_callback(self._ended)
        for kind in self._ends.doubted():
            if kind in self._feeds:
                self._feeds[kind].again.set()
        ends_at = [since + self._linger_seconds for since in self._unused.values()]
        return max(min(ends_at) - now, 0.0) if ends_at else None

    def _ended(self, task: asyncio.Task[NoReturn]) -> None:
        if not task.cancelled():
            self._broken = task
            self._ends.changed.set()

    async def _place(self, kind: Kind) -> None:
        """Wait until there is a place for the kind, which it then has until it is refused or no longer in use."""
        if kind in self._placed:
            return
        if self._places.locked():
            self._ends.unfollowed(kind, Refusal("TooManyKinds", f"{MOST_KINDS} kinds are followed already"))
        await self._places.acquire()
        self._placed.add(kind)

    def _leave(self, kind: Kind) -> None:
        if kind in self._placed:
            self._placed.remove(kind)
            self._places.release()

    async def _follow_kind(self, kind: Kind) -> NoReturn:
        proven = False

        def listed(objects: Sequence[tuple[Key, Sighting]], began: float) -> None:
            nonlocal proven
            proven = True
            self._ends.listed(kind, dict(objects), began)

        def happened(what: str, body: Body) -> None:
            if what == "DELETED":
                self._ends.gone(kind, *identity(body))
            else:
                self._ends.seen(kind, *_sighting(kind, body))

        async def feed() -> Feed:
            base, plural = await self._discovery.path(kind)
            await self._place(kind)
            homes = [f"namespaces/{quote(namespace, safe='')}/" if namespace else "" for namespace in self._served]
            paths = [f"{base}/{home}{plural}" for home in homes]
            return Feed(paths, listed, happened, kept=partial(_sighting, kind), metadata_only=not signs_of(kind))

        def refused(error: RefusedError) -> None:
            if error.status in _REFUSALS:
                if not proven:  # an API server that has just started forbids what it has allowed before
                    self._leave(kind)
                self._ends.unfollowed(kind, _REFUSALS[error.status](kind))

        await self._keep(kind, feed, refused)

    async def _follow_leases(self) -> NoReturn:
        def listed(leases: Sequence[tuple[Key, str | None]], _began: float) -> None:
            self._ends.leases_listed(dict(leases))

        def happened(what: str, body: Body) -> None:
            if what == "DELETED":
                self._ends.lease_gone(identity(body)[0])
            else:
                self._ends.beat(*_beat(body))

        async def feed() -> Feed:
            paths = [leases_path(namespace) for namespace in self._served]
            return Feed(paths, listed, happened, kept=_beat, selector={"labelSelector": SESSION_LABEL})

        await self._keep(LEASES, feed, lambda _error: None)

    async def _keep(self, kind: Kind, feed: Callable[[], Any], refused: Callable[[RefusedError], None]) -> NoReturn:
        """Follow for ever: from a fresh listing after whatever happens, with pauses while nothing is listed."""
        pause, told = FIRST_RETRY_SECONDS, ""

        def listed() -> None:
            nonlocal pause, told
            pause, told = FIRST_RETRY_SECONDS, ""
            log.info("follow", kind=str(kind))

        def cannot(why: str) -> None:
            nonlocal told
            if why != told:  # a kind that is not there is looked for every few seconds
                told = why
                log.info("cannot follow", kind=str(kind), error=why)

        while True:
            longest = FIRST_RETRY_SECONDS
            try:
                self._feeds[kind] = await feed()
                await follow(self._api, self._feeds[kind], self._silent_seconds, listed)
            except _AgainError:
                continue
            except RefusedError as error:
                refused(error)
                longest = LAST_RETRY_SECONDS if error.status in _REFUSALS else longest
                cannot(f"{error.status}: {error.message}")
            except ClusterError as error:
                cannot(str(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)


LEASES: Final = Kind("coordination.k8s.io/v1", "Lease of a heartbeat")
"""No kind of its own: the Leases that Gatepass itself has made."""
_REFUSALS: Final[Mapping[int, Callable[[Kind], Refusal]]] = {
    403: lambda kind: Refusal(
        "OwnerForbidden", f"Gatepass may not list and watch {kind}: add it to the chart's value boundTo"
    ),
    404: lambda kind: Refusal("OwnerKindNotFound", f"there is no {kind} that lives in a namespace"),
}


def _sighting(kind: Kind, body: Body) -> tuple[Key, Sighting]:
    key, uid = identity(body)
    return key, Sighting(uid, finished(kind, body.get("status")), parse_time(body["metadata"]["creationTimestamp"]))


def _beat(body: Body) -> tuple[Key, str | None]:
    return identity(body)[0], renewed_at(body)
