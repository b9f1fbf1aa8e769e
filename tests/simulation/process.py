"""One life of the operator: from its first listing to its end, over the simulated API server and cloud."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from gatepass.core.ports import ClusterError, Provider, SourceFinder
from gatepass.core.types.common import Custom, SourceKind
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession
from gatepass.engine.engine import Engine, EngineSettings
from gatepass.engine.store import Store
from gatepass.engine.verifier import Confinement
from gatepass.kube.api import KubeApi
from gatepass.kube.cluster import KubeCluster
from gatepass.kube.handlers import identity, parse, parse_namespace
from gatepass.kube.listing import Listing
from tests.simulation.apiserver import JOBS, KINDS, LEASES, NAMESPACES, RESOURCES, SESSIONS, ApiServer, Json, parse_path
from tests.simulation.runners import Feed
from tests.simulation.weather import TIMEOUT_SECONDS, Fate, Weather, exchange

BIG_BANG: Final = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
OWNER: Final = "cluster/gatepass-system/gatepass"
RESYNC_SECONDS: Final = 600.0
TTL_SECONDS: Final = 900.0
Told = Callable[[str, Json | None, Json | None], None]
Note = Callable[..., None]


class LoopClock:
    """Both clocks are the event loop's."""

    def now(self) -> datetime:
        return BIG_BANG + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class SimulatedApi(KubeApi):
    """`KubeApi` over the simulated server and through the weather."""

    def __init__(self, server: ApiServer, weather: Weather, told: Told, note: Note) -> None:
        self._server, self._weather, self._told, self._note = server, weather, told, note

    async def call(
        self, method: str, path: str, body: Any = None, *, content_type: str = "", query: Any = None, accept: str = ""
    ) -> Json:
        """One request and its answer."""
        modes, chance = self._weather.modes, self._weather.chance
        weights: dict[Fate, float] = {}
        if modes["api-lossy"]:
            weights = {Fate.REFUSED: 0.2, Fate.LOST_BEFORE: 0.1, Fate.LOST_AFTER: 0.2}
        if modes["api-down"]:
            weights = {Fate.REFUSED: 0.6, Fate.LOST_BEFORE: 0.4}
        fate = self._weather.draw(weights)
        there, back = self._weather.way(slow=bool(modes["api-slow"])), self._weather.way(slow=bool(modes["api-slow"]))
        if fate in (Fate.LOST_BEFORE, Fate.LOST_AFTER) and chance.random() < 0.5:
            there, back = chance.uniform(0, TIMEOUT_SECONDS), TIMEOUT_SECONDS

        def effect() -> Json:
            self._note("api", method, path, body)
            return self._server.request(method, path, body, query)

        refused, lost = ClusterError("503: unavailable"), ClusterError(f"{method} {path}: timed out")
        answer = await exchange(effect, there, back, fate, refused=refused, lost=lost)
        self._note("answer", method, path)
        plural = parse_path(path)[0]
        if plural in KINDS:
            for item in answer.get("items", [answer] if "metadata" in answer else []):
                self._told(plural, None, item)
        return answer


class Announcements:
    """Events go nowhere."""

    def __init__(self, note: Note) -> None:
        self._note = note

    def add(self, about: Custom, reason: str, message: str, *, warning: bool) -> None:
        self._note("event", str(about.key), reason, message)


class Process:
    """Lives from `start` to `kill`, which is as sudden as SIGKILL. `told` hears what the engine gets to know."""

    def __init__(
        self,
        server: ApiServer,
        provider: Provider,
        weather: Weather,
        told: Told,
        note: Note,
        listed: Callable[[], None],
        finder: SourceFinder,
        look_seconds: float,
    ) -> None:
        self._server, self._weather, self._told, self._note, self._listed = server, weather, told, note, listed
        self._provider = provider
        clock = LoopClock()
        self._api = SimulatedApi(server, weather, self._tell, note)
        cluster = KubeCluster(self._api, Announcements(note), clock, ("gatepass-requester",))  # type: ignore[arg-type]
        settings = EngineSettings(
            owner=OWNER,
            confinement=Confinement({"*": ("operator", "*")}),
            resync_seconds=RESYNC_SECONDS,
            default_ttl=timedelta(seconds=TTL_SECONDS),
            admission_unverified=False,
            look_seconds=look_seconds,
        )
        finders = {SourceKind.POD: finder}
        self.engine = Engine(settings, Store(), {"aws": provider}, cluster, clock, finders=finders)
        self.runners = Feed(server, self.engine.ends, weather)
        self._blind: dict[str, int] = dict.fromkeys(KINDS, 0)
        self._last_due: dict[str, float] = {}
        self._dead = False
        self._task: asyncio.Task[None] | None = None

    def start(self, ended: Callable[[BaseException | None], None]) -> None:
        """Begin to live; `ended` is called when it ends by itself."""
        self._task = asyncio.get_running_loop().create_task(self._live())

        def done(task: asyncio.Task[None]) -> None:
            if not self._dead and not task.cancelled():
                ended(task.exception())

        self._task.add_done_callback(done)

    def kill(self) -> None:
        """End at once; requests that are under way take effect all the same."""
        self._dead = self.runners.dead = True
        if self.runners.happened in self._server.watchers:
            self._server.watchers.remove(self.runners.happened)
        if self._deliver_news in self._server.watchers:
            self._server.watchers.remove(self._deliver_news)
        if self._task is not None:
            self._task.cancel()

    async def _live(self) -> None:
        listing = Listing(self._api, self.engine, ())
        await listing.read_at_last()
        self._listed()
        self._server.watchers += [self._deliver_news, self.runners.happened]
        async with asyncio.TaskGroup() as tasks:
            for plural in KINDS:
                self._relist(plural)
            tasks.create_task(self.engine.run())
            tasks.create_task(self.runners.run())
            tasks.create_task(listing.repeat(RESYNC_SECONDS))

    def _tell(self, plural: str, gone: Json | None, item: Json | None) -> None:
        if not self._dead:
            self._told(plural, gone, item)

    def pod_moved(self, name: str) -> None:
        """As the watch of pods tells it."""
        for key, session in list(self.engine.store.sessions.items()):
            if session.spec.source.pod is not None and session.spec.source.pod.name == name and not self._dead:
                self.engine.source_changed(key)

    # watches

    def break_watch(self, plural: str) -> None:
        """The watch of a kind goes silent: what happens meanwhile is lost."""
        if plural in (JOBS, LEASES):
            self.runners.gap(plural, over=False)
            return
        self._blind[plural] += 1

    def mend_watch(self, plural: str) -> None:
        """It is begun anew with a listing, which does not tell what was deleted in between."""
        if plural in (JOBS, LEASES):
            self.runners.gap(plural, over=True)
            return
        self._blind[plural] -= 1
        if not self._blind[plural] and not self._dead and self._deliver_news in self._server.watchers:
            self._relist(plural)

    def _relist(self, plural: str) -> None:
        for item in self._server.every(plural):
            self._later(plural, "LISTED", item)

    def _deliver_news(self, plural: str, event: str, item: Json) -> None:
        if self._blind.get(plural, 1):  # nobody watches Secrets
            return
        self._later(plural, event, item)
        if self._weather.chance.random() < 0.05:
            self._later(plural, event, item)  # doubled

    def _later(self, plural: str, event: str, item: Json) -> None:
        """In order for each object, as a watch tells at least; in no order between objects and kinds."""
        loop = asyncio.get_running_loop()
        slow = bool(self._weather.modes["events-late"])
        uid = item["metadata"].get("uid", item["metadata"]["name"])
        due = max(self._last_due.get(uid, 0.0), loop.time()) + self._weather.way(slow=slow)
        self._last_due[uid] = due
        loop.call_at(due, self._deliver, plural, event, item)

    def _deliver(self, plural: str, event: str, item: Json) -> None:
        """As `kube.handlers` does."""
        if self._dead:
            return
        engine, gone = self.engine, event == "DELETED"
        self._note("told", event, plural, item["metadata"]["name"], item["metadata"].get("resourceVersion"))
        self._tell(plural, item if gone else None, None if gone else item)
        if plural == NAMESPACES:
            if gone:
                engine.namespace_gone(item["metadata"]["name"], item["metadata"]["uid"])
            else:
                engine.namespace_seen(parse_namespace(item))
            return
        key, uid = identity(item)
        known: Any = engine.store.sessions if plural == SESSIONS else engine.store.resources
        if gone:
            (engine.session_gone if plural == SESSIONS else engine.resource_gone)(key, uid)
        elif (before := known.get(key)) and before.metadata.resource_version == item["metadata"]["resourceVersion"]:
            return
        elif plural == SESSIONS and (session := parse(AccessSession, item)) is not None:
            engine.session_seen(session)
        elif plural == RESOURCES and (resource := parse(ProtectedResource, item)) is not None:
            engine.resource_seen(resource)
