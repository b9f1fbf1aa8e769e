"""A watch that has gone silent is begun anew, and liveness knows."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import structlog

from gatepass.core.types.common import Custom
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession
from gatepass.engine.engine import Engine
from gatepass.kube.api import path_of
from gatepass.kube.health import Health
from gatepass.kube.listing import BEGUN_ANEW
from gatepass.kube.watches import SILENT_SECONDS, Watches
from gatepass.sandbox.environment import Sandbox
from gatepass.sandbox.processes import free_ports
from tests.engine.world import eventually
from tests.kube.follower import SPECS, Objects, a_follower, make_namespace
from tests.kube.wire import Wire, wire_to

OURS = "/apis/gatepass.dev/v1alpha1"
KINDS = {"namespaces", "accesssessions", "protectedresources", "apikeybindings"}


@asynccontextmanager
async def watching(sandbox: Sandbox, wire: Wire, watches: Watches, folder: Path) -> AsyncIterator[Engine]:
    """Watches that follow the API server through the wire."""
    async with a_follower(sandbox, wire, folder) as follower, follower.watching(watches) as engine:
        yield engine


async def test_a_silent_watch_is_begun_anew(sandbox: Sandbox, tmp_path: Path) -> None:
    wire = wire_to(sandbox)
    watches = Watches(silent_seconds=1.5)
    async with wire.up(), watching(sandbox, wire, watches, tmp_path) as engine:
        await eventually(lambda: "default" in engine.store.namespaces, "the first listing")
        await eventually(lambda: watches.ages().keys() == KINDS, "every kind is followed")
        with structlog.testing.capture_logs() as lines:
            wire.silence()
            name = await asyncio.to_thread(make_namespace, sandbox)
            await eventually(lambda: name in engine.store.namespaces, "what happened meanwhile is seen")
        assert "/api/v1/namespaces" in [line["path"] for line in lines if line["event"].startswith("watch was silent")]
        assert watches.dead() == []


async def test_a_silent_watch_of_sessions_goes_on_where_it_was(sandbox: Sandbox, tmp_path: Path) -> None:
    wire = wire_to(sandbox)
    sessions = Objects(sandbox, AccessSession)
    async with wire.up(), a_follower(sandbox, wire, tmp_path) as follower:
        await follower.listing.read()
        async with follower.watching(Watches(silent_seconds=1.5)) as engine:
            await asyncio.to_thread(sessions.make, "before")
            await eventually(lambda: sessions.known_to(engine) == {"before"}, "the watch lives")
            with structlog.testing.capture_logs() as lines:
                wire.silence()
                await asyncio.to_thread(sessions.make, "meanwhile")
                await asyncio.to_thread(sessions.remove, "before")
                await eventually(lambda: sessions.known_to(engine) == {"meanwhile"}, "what happened is seen")
        told = {line["event"] for line in lines if line.get("path") == path_of(AccessSession)}
        assert "watch was silent or broke, and is begun anew" in told
        assert BEGUN_ANEW not in told


async def test_watches_are_tried_again_while_nothing_answers(sandbox: Sandbox, tmp_path: Path) -> None:
    wire = wire_to(sandbox)
    watches = Watches(silent_seconds=1.5)
    async with wire.up(), watching(sandbox, wire, watches, tmp_path) as engine:
        await eventually(lambda: "default" in engine.store.namespaces, "the first listing")
        await eventually(lambda: watches.ages().keys() == KINDS, "every kind is followed")
        wire.cut()
        for kind in KINDS:
            await eventually(lambda kind=kind: watches.ages()[kind] > 1, f"{kind} is silent")
            await eventually(lambda kind=kind: watches.ages()[kind] < 1, f"{kind} is tried again")


class Heard(Watches):
    """Remembers what was asked for of our kinds."""

    def __init__(self, silent_seconds: float = SILENT_SECONDS) -> None:
        super().__init__(silent_seconds)
        self.requests: list[tuple[str, bool]] = []

    def begun(self, path: str, *, watch: bool) -> None:
        super().begun(path, watch=watch)
        if path.rpartition("/")[2] in KINDS:
            self.requests.append((path, watch))


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("everywhere", [True, False])
async def test_watches_go_on_where_we_have_listed(
    sandbox: Sandbox, tmp_path: Path, everywhere: bool, kind: type[Custom]
) -> None:
    wire = wire_to(sandbox)
    objects = Objects(sandbox, kind)
    await asyncio.to_thread(objects.make, "stays", "goes")
    namespaces = [] if everywhere else [objects.namespace]
    watches = Heard()
    async with wire.up(), a_follower(sandbox, wire, tmp_path, namespaces) as follower:
        await follower.listing.read()
        assert objects.known_to(follower.engine) == {"stays", "goes"}
        await asyncio.to_thread(objects.remove, "goes")
        await asyncio.to_thread(objects.make, "comes")
        async with follower.watching(watches) as engine:
            await eventually(lambda: objects.known_to(engine) == {"stays", "comes"}, "what happened since the listing")
            await eventually(lambda: watches.ages().keys() == KINDS, "every kind is followed")
        assert all(watch for _, watch in watches.requests), "nothing is listed once more"
        assert [path for path, _ in watches.requests].count(objects.path if namespaces else path_of(kind)) == 1


@pytest.mark.parametrize("kind", SPECS)
async def test_who_may_have_missed_something_lists_again(sandbox: Sandbox, tmp_path: Path, kind: type[Custom]) -> None:
    """The API server does not go back as far as a watch would have it: 410 Gone."""
    wire = wire_to(sandbox)
    objects = Objects(sandbox, kind)
    await asyncio.to_thread(objects.make, "stays", "goes")
    async with wire.up(), a_follower(sandbox, wire, tmp_path) as follower:
        await follower.listing.read()
        follower.listing._versions = dict.fromkeys(follower.listing._versions, "1")
        await asyncio.to_thread(objects.remove, "goes")
        await asyncio.to_thread(objects.make, "comes")
        with structlog.testing.capture_logs() as lines:
            async with follower.watching(Watches()) as engine:
                await eventually(lambda: objects.known_to(engine) == {"stays", "comes"}, "the second listing")
        begun_anew = [line["path"] for line in lines if line["event"] == BEGUN_ANEW]
        assert path_of(kind) in begun_anew


async def test_who_has_heard_nothing_for_long_goes_on_from_the_same_listing(sandbox: Sandbox, tmp_path: Path) -> None:
    """Ten thousand objects are not listed again for a watch that brought nothing; but it may be too old by now."""
    wire = wire_to(sandbox)
    resources = Objects(sandbox, ProtectedResource)
    path = resources.path.replace(f"/namespaces/{resources.namespace}", "")
    async with wire.up(), a_follower(sandbox, wire, tmp_path) as follower:
        await follower.listing.read()
        first = await follower.listing.since(path)
        await asyncio.to_thread(resources.make, "comes")
        follower.passed += SILENT_SECONDS
        assert await follower.listing.since(path) == first
        assert resources.known_to(follower.engine) == set()
        assert await follower.listing.since(path) != first
        assert resources.known_to(follower.engine) == {"comes"}


@pytest.mark.parametrize(
    ("silent_for", "dead"),
    [(SILENT_SECONDS, []), (369.0, []), (371.0, ["/api/v1/namespaces", f"{OURS}/accesssessions"])],
)
async def test_a_kind_that_nobody_asks_for_any_more_is_dead(silent_for: float, dead: list[str]) -> None:
    now = 1000.0
    watches = Watches(monotonic=lambda: now)
    assert watches.dead() == [], "nothing has begun yet"
    for path in ("/api/v1/namespaces", f"{OURS}/accesssessions", OURS):
        watches.begun(path, watch=True)
    now += silent_for
    watches.begun(f"{OURS}/namespaces/ci/protectedresources", watch=True)
    assert watches.dead() == dead
    assert watches.ages()["protectedresources"] == 0
    watches.begun(f"{OURS}/accesssessions", watch=True)
    watches.begun("/api/v1/namespaces", watch=True)
    assert watches.dead() == []


async def test_another_namespace_keeps_no_watch_alive() -> None:
    now = 1000.0
    watches = Watches(monotonic=lambda: now)
    ci, web = (f"{OURS}/namespaces/{namespace}/protectedresources" for namespace in ("ci", "web"))
    watches.begun(ci, watch=True)
    now += 371.0
    watches.begun(web, watch=True)
    assert watches.dead() == [ci]
    assert watches.ages() == {"protectedresources": 371.0}


@pytest.mark.parametrize(("seconds", "told"), [(70.0, [70]), (298.0, [298]), (300.0, []), (310.0, [])])
async def test_a_watch_that_ends_early_is_told(seconds: float, told: list[int]) -> None:
    now = 1000.0
    watches = Watches(monotonic=lambda: now)
    with structlog.testing.capture_logs() as lines:
        for watch in (False, True):
            watches.begun("/api/v1/namespaces", watch=watch)
        assert lines == [], "the first of all"
        now += seconds
        watches.begun("/api/v1/namespaces", watch=True)
    assert [line["seconds"] for line in lines] == told


async def test_the_probes() -> None:
    ready, dead = False, ["accesssessions"]
    health = Health(ready=lambda: ready, dead=lambda: dead)
    (port,) = free_ports(1)
    await health.start("127.0.0.1", port)

    async def ask(path: str) -> tuple[int, str]:
        async with aiohttp.request("GET", f"http://127.0.0.1:{port}{path}") as answer:
            return answer.status, (await answer.text()).strip()

    try:
        assert await ask("/readyz") == (503, "starting, or ending")
        assert await ask("/healthz") == (503, "no longer watched: accesssessions")
        ready, dead = True, []
        assert await ask("/readyz") == (200, "ok")
        assert await ask("/healthz") == (200, "ok")
    finally:
        await health.stop()
