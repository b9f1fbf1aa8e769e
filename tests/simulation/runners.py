"""What sessions live by, in a run: Jobs that finish or go, runners that beat, and how the process hears of them."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from gatepass.core.owners import Kind, Sighting
from gatepass.core.ports import ClusterError, GoneError
from gatepass.core.types.common import Key, parse_time
from gatepass.core.types.ends import lease_name
from gatepass.engine.ends import Ends
from tests.observer.promise import duration
from tests.simulation.apiserver import JOBS, LEASES, SESSIONS, ApiServer, Json
from tests.simulation.calm import FOREVER
from tests.simulation.weather import Weather

JOB: Final = Kind("batch/v1", "Job")
_RELIST_SECONDS: Final = 0.3
_LOOKS_EVERY: Final = 1.0


class Feed:
    """As `kube.runners` follows: a listing, then its events in their order, and a listing again after a gap."""

    def __init__(self, server: ApiServer, ends: Ends, weather: Weather) -> None:
        self._server, self._ends, self._weather = server, ends, weather
        self._blind = {JOBS: 0, LEASES: 0}
        self._epoch = {JOBS: 0, LEASES: 0}
        self._due = {JOBS: 0.0, LEASES: 0.0}
        self._follows: set[str] = set()
        self.dead = False

    async def run(self) -> None:
        """List what is wanted for the first time, or doubted."""
        while True:
            self._ends.changed.clear()
            wanted = {*([JOBS] if JOB in self._ends.kinds else []), *([LEASES] if self._ends.beating else [])}
            doubted = {JOBS} if JOB in self._ends.doubted() else set()
            for plural in sorted((wanted - self._follows) | (doubted & wanted)):
                self._follows.add(plural)
                self._list(plural)
            for plural in sorted(self._follows - wanted):
                self._follows.discard(plural)
                self._epoch[plural] += 1
                if plural == JOBS:
                    self._ends.dropped(JOB)
                else:
                    self._ends.leases_dropped()
            await self._ends.changed.wait()

    def gap(self, plural: str, *, over: bool) -> None:
        """Events are lost, or it is followed again."""
        self._blind[plural] += -1 if over else 1
        self._epoch[plural] += 1
        if over and plural in self._follows:
            self._list(plural)

    def _list(self, plural: str) -> None:
        self._epoch[plural] += 1
        loop = asyncio.get_running_loop()
        loop.call_later(self._weather.way(), self._listed, plural, self._epoch[plural], loop.time())

    def _listed(self, plural: str, epoch: int, began: float) -> None:
        if self.dead or epoch != self._epoch[plural]:
            return
        if self._blind[plural] or self._weather.modes["api-down"]:
            asyncio.get_running_loop().call_later(_RELIST_SECONDS, self._listed, plural, epoch, began)
            return
        items = self._server.every(plural)
        if plural == JOBS:
            self._ends.listed(JOB, {_key(item): _sighting(item) for item in items}, began)
        else:
            self._ends.leases_listed({_key(item): item["spec"].get("renewTime") for item in items})

    def happened(self, plural: str, event: str, item: Json) -> None:
        """The server's watcher; late, and now and then doubled."""
        if plural not in self._follows or self._blind[plural] or self.dead:
            return
        loop = asyncio.get_running_loop()
        for _ in range(2 if self._weather.chance.random() < 0.05 else 1):
            due = max(self._due[plural], loop.time()) + self._weather.way(slow=bool(self._weather.modes["events-late"]))
            self._due[plural] = due
            loop.call_at(due, self._deliver, plural, event, item, self._epoch[plural])

    def _deliver(self, plural: str, event: str, item: Json, epoch: int) -> None:
        if self.dead or epoch != self._epoch[plural]:
            return
        match plural, event:
            case "jobs", "DELETED":
                self._ends.gone(JOB, _key(item), item["metadata"]["uid"])
            case "jobs", _:
                self._ends.seen(JOB, _key(item), _sighting(item))
            case _, "DELETED":
                self._ends.lease_gone(_key(item))
            case _:
                self._ends.beat(_key(item), item["spec"].get("renewTime"))


def _key(item: Json) -> Key:
    return Key(item["metadata"]["namespace"], item["metadata"]["name"])


def _sighting(item: Json) -> Sighting:
    metadata = item["metadata"]
    return Sighting(metadata["uid"], bool(item["spec"].get("finished")), parse_time(metadata["creationTimestamp"]))


class Hearts:
    """Runners outside of the cluster, one for each session with a heartbeat, until they are killed."""

    def __init__(
        self,
        server: ApiServer,
        weather: Weather,
        located_at: Callable[[Json], float],
        told: Callable[..., None],
    ) -> None:
        self._server, self._weather, self._located_at, self._told = server, weather, located_at, told
        self._beaten: dict[str, float] = {}
        self._revived: dict[str, float] = {}
        self._heard: set[str] = set()
        self._killed: dict[str, float] = {}

    def begin(self, session: Json) -> None:
        """It beats from when it is told where."""
        uid = session["metadata"]["uid"]
        self._beaten[uid] = asyncio.get_running_loop().time()
        self._beat(uid, session["metadata"]["name"], duration(session["spec"]["heartbeat"]["interval"]).total_seconds())

    def kill(self, name: str) -> None:
        """It beats no more. Another session may have the name by now, and live by nothing."""
        session = self._server.get(SESSIONS, "ci", name)
        if "heartbeat" not in session["spec"]:
            return
        self._killed.setdefault(session["metadata"]["uid"], asyncio.get_running_loop().time())

    def missed_from(self, session: Json) -> float:
        """When its window begins at last, or FOREVER; who has never beaten is awaited until its address is known."""
        uid = session["metadata"]["uid"]
        dead_from = self._killed.get(uid, FOREVER)
        if uid in self._heard or "pod" not in session["spec"]["source"]:
            return dead_from
        return max(dead_from, self._located_at(session))

    def healthy(self, session: Json) -> bool:
        """Has a beat come through within the window, and not just now, after a whole window without one?"""
        uid, window, now = session["metadata"]["uid"], _window(session), asyncio.get_running_loop().time()
        just_revived = now - self._revived.get(uid, float("-inf")) < 5.0
        return now - self._beaten.get(uid, -window) < window - 1.0 and not just_revived

    def _beat(self, uid: str, name: str, interval: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            session = self._server.get(SESSIONS, "ci", name)
        except GoneError:
            return
        if uid in self._killed or session["metadata"]["uid"] != uid or "endedAt" in session.get("status", {}):
            return
        if "heartbeat" not in session.get("status", {}):  # nobody can beat who has not been told where
            self._beaten[uid] = loop.time()
            loop.call_later(_LOOKS_EVERY, self._beat, uid, name, interval)
            return
        if not self._weather.modes["api-down"]:
            try:
                self._server.renew("ci", lease_name(uid), f"{loop.time():.6f}")
            except (GoneError, ClusterError):
                pass  # it is not made yet
            else:
                if loop.time() - self._beaten[uid] >= _window(session) - 1.0:
                    self._revived[uid] = loop.time()
                self._beaten[uid] = loop.time()
                self._heard.add(uid)
                self._told("beat", name)
        loop.call_later(interval, self._beat, uid, name, interval)


def _window(session: Json) -> float:
    heart: dict[str, Any] = session["spec"]["heartbeat"]
    return duration(heart["interval"]).total_seconds() * int(heart["missed"])
