"""Where pods are, and a finder that is asked about it through the weather."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from gatepass.core.errors import SourceError
from gatepass.core.types.session import AccessSession, SourceAddress
from tests.simulation.weather import Fate, Weather

POD_ADDRESSES: Final = {
    f"p{number}": tuple(f"203.0.113.{64 + number * 4 + each}" for each in range(3)) for number in range(8)
}
"""Every address that a pod ever has."""
_BIG_BANG: Final = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Pods:
    """`at` are the addresses of each pod that has been scheduled; `moved` is called with the name of one that moves."""

    def __init__(self) -> None:
        self.at: dict[str, tuple[str, ...]] = {}
        self.moved: Callable[[str], None] = lambda _name: None

    def move(self, name: str, *addresses: int) -> None:
        """Schedule a pod, or move it to others of its addresses."""
        self.at[name] = tuple(POD_ADDRESSES[name][each] for each in addresses)
        self.moved(name)


class SimulatedFinder:
    """Late, failing, and now and then wrong for good, as the faults in force say."""

    def __init__(self, pods: Pods, weather: Weather) -> None:
        self._pods, self._weather = pods, weather

    async def find(self, session: AccessSession) -> tuple[SourceAddress, ...]:
        modes = self._weather.modes
        weights = {Fate.REFUSED: 0.6, Fate.LOST_BEFORE: 0.3} if modes["finder-down"] else {}
        fate = self._weather.draw(weights)
        await asyncio.sleep(self._weather.way(slow=bool(modes["finder-slow"])))
        assert session.spec.source.pod is not None
        addresses = self._pods.at.get(session.spec.source.pod.name)
        await asyncio.sleep(self._weather.way(slow=bool(modes["finder-slow"])))
        if fate is Fate.REFUSED:
            raise SourceError("RequestLimitExceeded", "the cloud says: later", retry=True)
        if fate is Fate.LOST_BEFORE:
            raise SourceError("NotResolvable", "the cloud cannot tell")
        if addresses is None:
            raise SourceError("PodNotScheduled", "the pod has no node yet", awaited=True)
        now = _BIG_BANG + timedelta(seconds=asyncio.get_running_loop().time())
        return tuple(SourceAddress(ip=ip, version=4, evidence="its node", observed_at=now) for ip in addresses)
