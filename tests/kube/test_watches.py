"""A watch that has gone silent is begun anew, and liveness knows."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path

import aiohttp
import pytest
import structlog
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from gatepass.engine.engine import Engine, EngineSettings
from gatepass.engine.store import Store
from gatepass.engine.verifier import Confinement
from gatepass.kube.health import Health
from gatepass.kube.operator import watch
from gatepass.kube.watches import SILENT_SECONDS, Watches
from gatepass.providers.memory import MemoryFirewalls
from gatepass.sandbox.environment import Sandbox
from gatepass.sandbox.processes import free_ports
from tests.engine.world import OWNER, InMemoryCluster, LoopClock
from tests.kube.wire import Wire

KINDS = {"namespaces", "accesssessions", "protectedresources"}
PATIENCE_SECONDS = 30.0
_numbers = count(1)


async def eventually(true: Callable[[], object], what: str) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_SECONDS
    while not true():
        assert loop.time() < deadline, f"{what} did not come true in time"
        await asyncio.sleep(0.02)


def an_engine() -> Engine:
    """One that only stores what it is told."""
    settings = EngineSettings(OWNER, Confinement({}), 600, timedelta(hours=24), admission_unverified=False)
    return Engine(settings, Store(), {"aws": MemoryFirewalls()}, InMemoryCluster(), LoopClock())


@asynccontextmanager
async def watching(sandbox: Sandbox, wire: Wire, watches: Watches, folder: Path) -> AsyncIterator[Engine]:
    """kopf, following the API server through the wire."""
    port = str(wire.port)
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        sandbox.kubeconfig.read_text().replace(sandbox.control_plane.server, f"https://127.0.0.1:{port}")
    )
    given = Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=given)
    engine, stop, ready = an_engine(), asyncio.Event(), asyncio.Event()
    async with ApiClient(given) as client:
        task = asyncio.create_task(watch(client, engine, [], watches, stop, ready.set))
        await eventually(lambda: ready.is_set() or task.done(), "kopf starts")
        yield engine
        stop.set()
        await task


def make_namespace(sandbox: Sandbox) -> str:
    name = f"watched-{next(_numbers)}"
    with sandbox.control_plane.api() as api:
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    return name


async def test_a_silent_watch_is_begun_anew(sandbox: Sandbox, tmp_path: Path) -> None:
    wire = Wire(int(sandbox.control_plane.server.rpartition(":")[2]))
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


async def test_watches_are_tried_again_while_nothing_answers(sandbox: Sandbox, tmp_path: Path) -> None:
    wire = Wire(int(sandbox.control_plane.server.rpartition(":")[2]))
    watches = Watches(silent_seconds=1.5)
    async with wire.up(), watching(sandbox, wire, watches, tmp_path) as engine:
        await eventually(lambda: "default" in engine.store.namespaces, "the first listing")
        await eventually(lambda: watches.ages().keys() == KINDS, "every kind is followed")
        wire.cut()
        for kind in KINDS:
            await eventually(lambda kind=kind: watches.ages()[kind] > 1, f"{kind} is silent")
            await eventually(lambda kind=kind: watches.ages()[kind] < 1, f"{kind} is tried again")


@pytest.mark.parametrize(
    ("silent_for", "dead"), [(SILENT_SECONDS, []), (369.0, []), (371.0, ["accesssessions", "namespaces"])]
)
async def test_a_kind_that_nobody_asks_for_any_more_is_dead(silent_for: float, dead: list[str]) -> None:
    now = 1000.0
    watches = Watches(monotonic=lambda: now)
    assert watches.dead() == [], "nothing has begun yet"
    for kind in ("namespaces", "accesssessions"):
        watches.begun(f"/api/v1/{kind}", watch=True)
    watches.begun("/apis/gatepass.dev/v1alpha1", watch=True)
    now += silent_for
    watches.begun("/apis/gatepass.dev/v1alpha1/namespaces/ci/protectedresources", watch=True)
    assert watches.dead() == dead
    assert watches.ages()["protectedresources"] == 0
    watches.begun("/apis/gatepass.dev/v1alpha1/accesssessions", watch=True)
    watches.begun("/api/v1/namespaces", watch=True)
    assert watches.dead() == []


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
        assert await ask("/readyz") == (503, "listing")
        assert await ask("/healthz") == (503, "no longer watched: accesssessions")
        ready, dead = True, []
        assert await ask("/readyz") == (200, "ok")
        assert await ask("/healthz") == (200, "ok")
    finally:
        await health.stop()
