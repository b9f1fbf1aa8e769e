"""An engine that hears of the API server as the operator's does, and objects for it to hear of."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import count
from pathlib import Path

from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

from gatepass.core.types.common import GROUP, VERSION, Custom
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession
from gatepass.engine.engine import Engine, EngineSettings
from gatepass.engine.store import Store
from gatepass.engine.verifier import Confinement
from gatepass.kube.api import KubeApi, path_of
from gatepass.kube.clock import CorrectedClock
from gatepass.kube.listing import Listing
from gatepass.kube.operator import watch
from gatepass.kube.sessions import follow_sessions
from gatepass.kube.watches import Watches
from gatepass.providers.memory import MemoryFirewalls
from gatepass.sandbox.environment import Sandbox
from tests.engine.world import OWNER, InMemoryCluster, LoopClock, eventually
from tests.kube.wire import Wire

_numbers = count(1)


def an_engine() -> Engine:
    """One that only stores what it is told."""
    settings = EngineSettings(OWNER, Confinement({}), 600, timedelta(hours=24), admission_unverified=False)
    return Engine(settings, Store(), {"aws": MemoryFirewalls()}, InMemoryCluster(), LoopClock())


class Follower:
    """An engine, our own listing, and watches that follow the API server through the wire once they are started."""

    def __init__(self, client: ApiClient, namespaces: Sequence[str]) -> None:
        self.engine = an_engine()
        self.passed = 0.0
        self._api = KubeApi(client, CorrectedClock())
        self.listing = Listing(self._api, self.engine, namespaces, monotonic=lambda: self.passed)
        self._client = client
        self._namespaces = namespaces
        self._stop = asyncio.Event()

    @asynccontextmanager
    async def watching(self, watches: Watches) -> AsyncIterator[Engine]:
        ready = asyncio.Event()
        work = watch(self._client, self.engine, self.listing, self._namespaces, watches, self._stop, ready.set)
        kopf = asyncio.create_task(work)
        ours = asyncio.create_task(follow_sessions(self._api, self.engine, self.listing, self._namespaces, watches))
        await eventually(lambda: ready.is_set() or kopf.done(), "kopf starts")
        yield self.engine
        ours.cancel()
        await asyncio.gather(ours, return_exceptions=True)
        self._stop.set()
        await kopf


@asynccontextmanager
async def a_follower(
    sandbox: Sandbox, wire: Wire, folder: Path, namespaces: Sequence[str] = ()
) -> AsyncIterator[Follower]:
    port = str(wire.port)
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        sandbox.kubeconfig.read_text().replace(sandbox.control_plane.server, f"https://127.0.0.1:{port}")
    )
    given = Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=given)
    async with ApiClient(given) as client:
        yield Follower(client, namespaces)


def make_namespace(sandbox: Sandbox) -> str:
    name = f"watched-{next(_numbers)}"
    with sandbox.control_plane.api() as api:
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    return name


SPECS: dict[type[Custom], Mapping[str, object]] = {
    ProtectedResource: {
        "aws": {"region": "eu-central-1", "securityGroups": ["sg-0aaa"]},
        "ports": [{"protocol": "TCP", "port": 5432}],
    },
    AccessSession: {"resources": [{"name": "db"}], "source": {"cidrs": ["198.51.100.7/32"]}, "duration": "1h"},
}


class Objects:
    """The objects of a kind in a namespace of their own."""

    def __init__(self, sandbox: Sandbox, kind: type[Custom]) -> None:
        self.namespace = make_namespace(sandbox)
        self.path = path_of(kind, self.namespace)
        self._kind = kind
        self._sandbox = sandbox

    def make(self, *names: str) -> None:
        with self._sandbox.control_plane.api() as api:
            for name in names:
                told = {"apiVersion": f"{GROUP}/{VERSION}", "kind": self._kind.__name__, "spec": SPECS[self._kind]}
                api.request("POST", self.path, {**told, "metadata": {"name": name}})

    def remove(self, name: str) -> None:
        with self._sandbox.control_plane.api() as api:
            let_go = {"metadata": {"finalizers": None}}
            api.request("PATCH", f"{self.path}/{name}", let_go, content_type="application/merge-patch+json")
            api.request("DELETE", f"{self.path}/{name}")

    def known_to(self, engine: Engine) -> set[str]:
        known = engine.store.sessions if self._kind is AccessSession else engine.store.resources
        return {key.name for key in known if key.namespace == self.namespace}
