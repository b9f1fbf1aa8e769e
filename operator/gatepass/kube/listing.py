"""What is there, listed: in full at first, and later only where the watches have not brought it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence, Set
from typing import Any, Final

import structlog

from gatepass.core.ports import ClusterError, GoneError
from gatepass.core.types.common import VERSION_COLUMN
from gatepass.engine.engine import Engine
from gatepass.kube.api import TABLE, KubeApi, path_of
from gatepass.kube.handlers import followed, identity, parse_namespace
from gatepass.kube.watches import SILENT_SECONDS

log = structlog.get_logger(__name__)

_RETRY_SECONDS: Final = 1.0
_NAMESPACES: Final = "/api/v1/namespaces"
BEGUN_ANEW: Final = "a watch could not go on where it was, and begins at a listing"
"""What the log says of an API server that does not go back so far: 410 Gone."""
_AT_ONCE_SECONDS: Final = SILENT_SECONDS / 2
_LOOKS: Final = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Seconds before each look at what the watches have brought meanwhile."""


class Listing:
    """Reads every object of every kind, in pages, and tells the engine what is there and what is gone.

    Once watches follow it, it can also read only what they have missed.
    """

    def __init__(
        self,
        api: KubeApi,
        engine: Engine,
        namespaces: Sequence[str],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._engine = engine
        self._followed = followed(engine)
        self._kinds = {
            path_of(each.kind, namespace): (each, namespace)
            for each in self._followed
            for namespace in namespaces or [""]
        }
        self._versions: dict[str, str] = {}
        # One after the other: what only an older listing has must not come after a newer one has forgotten it.
        self._reading = asyncio.Lock()
        self._monotonic = monotonic
        self._asked: dict[str, float] = {}

    async def read(self) -> None:
        """One full listing; raises ClusterError or GoneError when it was cut short, and then forgets nothing."""
        await self._read_all((_NAMESPACES, *self._kinds))

    async def _read_all(self, paths: Sequence[str]) -> None:
        async with self._reading:
            forgets = [await self._read(path) for path in paths]
            for forget in reversed(forgets):
                forget()

    async def since(self, path: str) -> str | None:
        """The version from which a watch of a collection misses nothing; None for one that is not listed here.

        It is that of the last listing. Who asks again at once was told that it is too old, so that the collection is
        listed again; who has waited has heard nothing since. Raises ClusterError or GoneError when it cannot be listed.
        """
        if path != _NAMESPACES and path not in self._kinds:
            return None
        now = self._monotonic()
        asked, self._asked[path] = self._asked.get(path, float("-inf")), now
        if path not in self._versions or now - asked < _AT_ONCE_SECONDS:
            return await self.again(path)
        return self._versions[path]

    def version(self, path: str) -> str | None:
        """That of the last listing of a collection; None when there was none yet."""
        return self._versions.get(path)

    async def again(self, path: str) -> str:
        """List a collection whose watch cannot go on, for the version to begin at; raises as `since` does."""
        log.info(BEGUN_ANEW, path=path)
        await self._read_all([path])
        return self._versions[path]

    async def _read(self, path: str) -> Callable[[], None]:
        """List one collection; answers with what forgets those that were known and are gone."""
        return await (self._read_namespaces() if path == _NAMESPACES else self._read_kind(path))

    async def _read_namespaces(self) -> Callable[[], None]:
        gone = {(each.name, each.uid) for each in self._engine.store.namespaces.values()}
        async for body in self._each(_NAMESPACES):
            seen = parse_namespace(body)
            gone.discard((seen.name, seen.uid))
            self._engine.namespace_seen(seen)

        def forget() -> None:
            for name, uid in gone:
                self._engine.namespace_gone(name, uid)

        return forget

    async def _read_kind(self, path: str) -> Callable[[], None]:
        of, namespace = self._kinds[path]
        gone = {(key, each.uid) for key, each in of.known.items() if namespace in ("", key.namespace)}
        async for body in self._each(path):
            gone.discard(identity(body))
            of.take(body)

        def forget() -> None:
            for key, uid in gone:
                of.gone(key, uid)

        return forget

    async def _each(self, path: str) -> AsyncIterator[dict[str, Any]]:
        async for page in self._api.listed(path):
            for body in page.get("items", ()):
                yield body
        self._versions[path] = str(page["metadata"]["resourceVersion"])

    async def read_at_last(self) -> None:
        """One full listing, tried again until the API server gives it."""
        await self._at_last(self.read)

    async def catch_up_at_last(self) -> None:
        """Know what is there by now, where watches follow what was listed; tried again as `read_at_last` does."""
        await self._at_last(self._catch_up)

    async def _at_last(self, read: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                return await read()
            except (ClusterError, GoneError) as error:
                log.warning("cannot list yet", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)

    async def _catch_up(self) -> None:
        missed = (_NAMESPACES, *await self._missed())
        await self._read_all(missed)
        log.info("caught up", listed=missed)

    async def _missed(self) -> list[str]:
        """The collections of which something has not been heard, and is not in a moment.

        The versions of ten thousand objects alone are told in a tenth of the time that they take in full.
        """
        heard = self._known_versions()
        asked = await asyncio.gather(*map(self._ask, self._kinds))
        told = {path: answer for path, answer in zip(self._kinds, asked, strict=True) if answer is not None}
        for pause in _LOOKS:
            if not told:
                break
            await asyncio.sleep(pause)
            known = self._known_versions()
            for path, (there, at) in list(told.items()):
                heard[path] |= known[path]
                if is_up_to_date(known[path], heard[path], there, at):
                    del told[path], heard[path]
        return list(heard)

    async def _ask(self, path: str) -> tuple[set[int], int] | None:
        """The versions of a collection's objects, and its own; None where nobody tells."""
        try:
            return versions_in(await self._api.call("GET", path, query={"includeObject": "None"}, accept=TABLE))
        except (ClusterError, GoneError, LookupError, TypeError, ValueError) as error:
            log.warning("cannot ask for versions, and list", path=path, error=str(error))
            return None

    def _known_versions(self) -> dict[str, set[int]]:
        """Of all objects that are known, by collection."""
        paths = {(of.plural, namespace): path for path, (of, namespace) in self._kinds.items()}
        found: dict[str, set[int]] = {path: set() for path in self._kinds}
        for of in self._followed:
            for key, each in of.known.items():
                path = paths.get((of.plural, key.namespace)) or paths.get((of.plural, ""))
                if path is not None:
                    found[path].add(int(each.metadata.resource_version))
        return found

    async def repeat(self, seconds: float) -> None:
        """List again at every resync, whatever the watches have told."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.read()
            except (ClusterError, GoneError) as error:
                log.warning("cannot list", error=str(error))


def versions_in(table: Mapping[str, Any]) -> tuple[set[int], int] | None:
    """The versions of a collection's objects, and its own; None where the CRD is of an earlier Gatepass.

    Raises LookupError, TypeError or ValueError for what is no table of an API server.
    """
    names = [column["name"] for column in table["columnDefinitions"]]
    if VERSION_COLUMN not in names:
        return None
    version = names.index(VERSION_COLUMN)
    return {int(row["cells"][version]) for row in table["rows"] or ()}, int(table["metadata"]["resourceVersion"])


def is_up_to_date(known: Set[int], heard: Set[int], there: Set[int], at: int) -> bool:
    """Is nothing missing of a collection whose objects had the versions `there` when its own version was `at`?

    Everything that was there has been `heard`, though some of it may have been replaced since; and whatever is `known`
    with a version up to `at` was there, so that it had been neither changed nor deleted. No two objects of a kind have
    one version.
    """
    return there <= heard and {version for version in known if version <= at} <= there
