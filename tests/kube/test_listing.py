"""Who follows the API server knows what is there now, and lists again only what he has not heard of."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog

from gatepass.core.ports import ClusterError
from gatepass.core.types.common import Custom
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession
from gatepass.engine.store import Namespace
from gatepass.kube.api import JSON, TABLE, KubeApi, path_of
from gatepass.kube.listing import Listing, is_up_to_date, versions_in
from gatepass.kube.watches import Watches
from gatepass.sandbox.environment import Sandbox
from tests.core.builders import a_resource, a_session
from tests.engine.world import eventually
from tests.kube.follower import SPECS, Follower, Objects, a_follower, an_engine
from tests.kube.wire import wire_to

NAMESPACES = "/api/v1/namespaces"
RESOURCES, SESSIONS = path_of(ProtectedResource), path_of(AccessSession)


@pytest.mark.parametrize(
    ("known", "heard", "there", "up_to_date"),
    [
        pytest.param({3, 5}, {3, 5}, {3, 5}, True, id="nothing has happened"),
        pytest.param({3, 11}, {3, 5, 11}, {3, 5}, True, id="one has changed since"),
        pytest.param({3, 5, 12}, {3, 5, 12}, {3, 5}, True, id="one has come since"),
        pytest.param({3}, {3, 5}, {3, 5}, True, id="one has gone since"),
        pytest.param({3}, {3}, {3, 5}, False, id="one has not come yet"),
        pytest.param({3, 5}, {3, 5}, {3, 9}, False, id="a change has not come yet"),
        pytest.param({3, 5}, {3, 5}, {3}, False, id="a deletion has not come yet"),
        pytest.param({3, 11}, {3, 11}, {3, 9}, False, id="a later one has come, and who knows of whom"),
        pytest.param(set(), set(), set(), True, id="there is nothing"),
    ],
)
def test_nothing_is_missing(known: set[int], heard: set[int], there: set[int], up_to_date: bool) -> None:
    assert is_up_to_date(known, heard, there, at=10) is up_to_date


PHASE, VERSION = {"name": "Phase"}, {"name": "Version"}


def a_table(*versions: int, at: int = 10) -> dict[str, Any]:
    """What the API server tells of a collection."""
    rows = [{"cells": ["Active", str(version)]} for version in versions]
    return {"columnDefinitions": [PHASE, VERSION], "rows": rows, "metadata": {"resourceVersion": str(at)}}


def test_versions_in_a_table() -> None:
    assert versions_in(a_table(3, 5)) == ({3, 5}, 10)
    assert versions_in({**a_table(), "rows": None}) == (set(), 10)
    assert versions_in({**a_table(3), "columnDefinitions": [PHASE]}) is None, "a CRD of an earlier Gatepass"


class Answers(KubeApi):
    """An API server of which only its answers are here: a table of resources, if any, and otherwise nothing is there.

    `table` may also be what is raised, and `listed_in_full` tells what else was asked for.
    """

    def __init__(self, table: dict[str, Any] | Exception) -> None:
        self._table = table
        self.listed_in_full: list[str] = []

    async def call(self, method: str, path: str, *_: Any, accept: str = JSON, **_given: Any) -> dict[str, Any]:
        if accept != TABLE:
            self.listed_in_full.append(path)
            return {"items": [], "metadata": {"resourceVersion": "10"}}
        if path != RESOURCES:
            return a_table()
        if isinstance(self._table, Exception):
            raise self._table
        return self._table


def a_version(name: str, version: int) -> ProtectedResource:
    return a_resource(name, metadata={"uid": name, "resourceVersion": str(version)})


@pytest.mark.looptime
@pytest.mark.parametrize(("late", "listed"), [(0.6, [NAMESPACES]), (2.0, [NAMESPACES, RESOURCES])])
async def test_what_the_watches_bring_in_a_moment_is_not_listed(late: float, listed: list[str]) -> None:
    """Also where it has changed once more by the time that the last is heard."""
    engine, answers = an_engine(), Answers(a_table(3, 5, 7))
    engine.resource_seen(a_version("changes", 2))
    news = [(0.1, "changes", 3), (0.25, "changes", 11), (0.25, "comes", 5), (late, "comes late", 7)]
    for after, name, version in news:
        asyncio.get_running_loop().call_later(after, engine.resource_seen, a_version(name, version))
    await Listing(answers, engine, []).catch_up_at_last()
    assert answers.listed_in_full == listed


@pytest.mark.looptime
@pytest.mark.parametrize("namespaces", [[], [f"team-{number}" for number in range(10)]])
async def test_all_collections_share_one_moment(namespaces: list[str]) -> None:
    class Busy(Answers):
        async def call(self, method: str, path: str, *_: Any, accept: str = JSON, **given: Any) -> dict[str, Any]:
            answer = await super().call(method, path, accept=accept, **given)
            return a_table(3) if accept == TABLE else answer

    began = asyncio.get_running_loop().time()
    await Listing(Busy(a_table()), an_engine(), namespaces).catch_up_at_last()
    assert asyncio.get_running_loop().time() - began < 1.0


@pytest.mark.looptime
@pytest.mark.parametrize(
    "table",
    [
        pytest.param(ClusterError("406: Not Acceptable"), id="something between that knows no tables"),
        pytest.param(ClusterError("GET: TimeoutError"), id="too many objects for one answer"),
        pytest.param({"items": [], "metadata": {"resourceVersion": "10"}}, id="a list"),
        pytest.param({**a_table(3), "rows": [{"cells": ["Active", None]}]}, id="a version of nothing"),
        pytest.param({**a_table(3), "metadata": {}}, id="no version of its own"),
    ],
)
async def test_where_nobody_tells_versions_everything_is_listed(table: dict[str, Any] | Exception) -> None:
    answers = Answers(table)
    async with asyncio.timeout(10):
        await Listing(answers, an_engine(), []).catch_up_at_last()
    assert answers.listed_in_full == [NAMESPACES, RESOURCES]


class Slow(Answers):
    """An API server that lists one session, when it is told to, and then none, at once."""

    def __init__(self) -> None:
        super().__init__(a_table())
        self.asked, self.answers = asyncio.Event(), asyncio.Event()

    async def call(self, method: str, path: str, *_: Any, accept: str = JSON, **given: Any) -> dict[str, Any]:
        answer = await super().call(method, path, accept=accept, **given)
        if self.listed_in_full.count(path) > 1 or path != SESSIONS:
            return answer
        self.asked.set()
        await self.answers.wait()
        return {**answer, "items": [a_session("gone since").to_json()]}


@pytest.mark.looptime
async def test_what_an_older_listing_tells_does_not_come_after_a_newer_one() -> None:
    """A resync is under way, and its watch has to begin anew: nobody would tell that the session is gone."""
    engine, api = an_engine(), Slow()
    listing = Listing(api, engine, [])
    resync = asyncio.create_task(listing.read())
    await api.asked.wait()
    newer = asyncio.create_task(listing.again(SESSIONS))
    await asyncio.wait([newer], timeout=1)  # as far as it gets before the older one is answered
    api.answers.set()
    await asyncio.gather(resync, newer)
    assert engine.store.sessions == {}


def a_namespace(version: int, **labels: str) -> Namespace:
    return Namespace("ci", f"uid-{version // 10}", version, labels, deleting=False)


class Namespaces(Answers):
    """An API server that lists namespaces as they were when it was asked; each answer takes a second."""

    def __init__(self, *there: Namespace) -> None:
        super().__init__(a_table())
        self._there = [
            {"metadata": {"name": each.name, "uid": each.uid, "resourceVersion": str(each.version)}} for each in there
        ]

    async def call(self, method: str, path: str, *_: Any, accept: str = JSON, **given: Any) -> dict[str, Any]:
        answer = await super().call(method, path, accept=accept, **given)
        await asyncio.sleep(1)
        return {**answer, "items": self._there} if path == NAMESPACES else answer


@pytest.mark.looptime
async def test_a_listing_brings_no_older_namespace_back() -> None:
    engine = an_engine()
    engine.namespace_seen(a_namespace(10, team="a"))
    asyncio.get_running_loop().call_later(0.5, engine.namespace_seen, a_namespace(15, team="b"))
    await Listing(Namespaces(a_namespace(10)), engine, []).read()
    assert engine.store.namespaces["ci"].labels == {"team": "b"}


@pytest.mark.looptime
async def test_a_listing_brings_no_namespace_back_that_has_gone_since() -> None:
    engine = an_engine()
    engine.namespace_seen(a_namespace(10))
    asyncio.get_running_loop().call_later(0.5, engine.namespace_gone, "ci", "uid-1")
    await Listing(Namespaces(a_namespace(10)), engine, []).read()
    assert engine.store.namespaces == {}


@pytest.mark.looptime
async def test_a_listing_forgets_no_namespace_that_was_made_again_since() -> None:
    engine = an_engine()
    engine.namespace_seen(a_namespace(10))
    asyncio.get_running_loop().call_later(1.5, engine.namespace_seen, a_namespace(20))  # while other kinds are listed
    await Listing(Namespaces(), engine, []).read()
    assert engine.store.namespaces["ci"].uid == "uid-2"


async def listed_to_catch_up(follower: Follower) -> list[str]:
    """The collections that had to be listed in full."""
    with structlog.testing.capture_logs() as lines:
        await follower.listing.catch_up_at_last()
    (told,) = [line["listed"] for line in lines if line["event"] == "caught up"]
    return list(told)


@pytest.mark.parametrize("kind", SPECS)
async def test_what_the_watches_have_brought_is_not_listed_again(
    sandbox: Sandbox, tmp_path: Path, kind: type[Custom]
) -> None:
    wire = wire_to(sandbox)
    objects = Objects(sandbox, kind)
    await asyncio.to_thread(objects.make, "stays", "goes")
    async with wire.up(), a_follower(sandbox, wire, tmp_path) as follower:
        await follower.listing.read()
        async with follower.watching(Watches()) as engine:
            await asyncio.to_thread(objects.remove, "goes")
            await asyncio.to_thread(objects.make, "comes")
            await eventually(lambda: objects.known_to(engine) == {"stays", "comes"}, "the news")
            assert await listed_to_catch_up(follower) == [NAMESPACES]


@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("change", ["make", "remove"])
async def test_what_the_watches_have_not_brought_is_listed(
    sandbox: Sandbox, tmp_path: Path, change: str, everywhere: bool
) -> None:
    """Nobody watches here: so a leader that was cut off from its watches would be told that all is as it was."""
    wire = wire_to(sandbox)
    resources = Objects(sandbox, ProtectedResource)
    await asyncio.to_thread(resources.make, "stays", "goes")
    namespaces = [] if everywhere else [resources.namespace]
    async with wire.up(), a_follower(sandbox, wire, tmp_path, namespaces) as follower:
        await follower.listing.read()
        assert await listed_to_catch_up(follower) == [NAMESPACES]
        await asyncio.to_thread(getattr(resources, change), "comes" if change == "make" else "goes")
        assert await listed_to_catch_up(follower) == [
            NAMESPACES,
            RESOURCES if everywhere else resources.path,
        ]
        left = {"stays", "goes", "comes"} if change == "make" else {"stays"}
        assert resources.known_to(follower.engine) == left
