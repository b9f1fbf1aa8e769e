"""Who does what and when in a round, all drawn from a seed: tenants with their sessions, and the runners of these."""

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

SEEN = "203.0.113.77"
"""What Gatepass itself is seen as."""
HEART = {"interval": "5s", "missed": 3}
WINDOW_SECONDS = 15.0
_NETWORKS = ("203.0.113.", "2001:db8::")
_SOURCES = {"cidrs": 0.55, "pod": 0.2, "claim": 0.15, "operator": 0.1}
_RUNNERS = {"none": 0.7, "job": 0.17, "heart": 0.13}
_FAREWELLS = ("finished", "failed", "deleted")


class Way(NamedTuple):
    """Where a pod may run, and the addresses that its traffic leaves from then."""

    node: str
    host: str
    ip: str
    addresses: Sequence[str]


@dataclass(frozen=True, order=True)
class Deed:
    """One thing that is done, so many seconds after the beginning."""

    at: float
    number: int
    session: str
    what: str
    how: dict[str, Any] = field(compare=False)


@dataclass(frozen=True)
class Script:
    """The deeds of tenants and of runners, each in their order, and the addresses that are to be found for sessions.

    `kinds` counts the sessions by their source, those over IPv6, and those that end with their runner by what that is.
    """

    tenants: list[Deed]
    runners: list[Deed]
    origins: Mapping[str, frozenset[str]]
    kinds: Counter[str]


class _Draft:
    def __init__(self, lot: random.Random, ways: Sequence[Way]) -> None:
        self.lot, self._ways = lot, ways
        self._numbers = itertools.count()
        self.tenants: list[Deed] = []
        self.runners: list[Deed] = []
        self.origins: dict[str, frozenset[str]] = {}
        self.kinds: Counter[str] = Counter()

    def _tenant(self, at: float, name: str, what: str, **how: Any) -> None:
        self.tenants.append(Deed(at, next(self._numbers), name, what, how))

    def _runner(self, at: float, name: str, what: str, **how: Any) -> None:
        self.runners.append(Deed(at, next(self._numbers), name, what, how))

    def session(self, at: float, name: str, resources: Sequence[str]) -> None:
        """One life."""
        chosen = self.lot.sample(resources, 2 if self.lot.random() < 0.15 else 1)
        spec: dict[str, Any] = {"resources": [{"name": each} for each in chosen]}
        claimed = self._source(at, name, spec)
        runner = self._live_by(at, name, spec) if claimed else "none"
        if not claimed:
            self._tenant(at, name, "create", spec=spec)
        elif runner != "none" and self.lot.random() < 0.6:
            self.kinds[f"with its {runner}"] += 1
            self._tenant(at, name, "create", spec=spec)
            what = "silence" if runner == "heart" else "end"
            self._runner(at + self.lot.uniform(1.0, 12.0), name, what, of=runner, farewell=self.lot.choice(_FAREWELLS))
        else:
            self._life(at, name, spec)

    def _source(self, at: float, name: str, spec: dict[str, Any]) -> bool:
        """Where it comes from; False when nobody will ever say so."""
        (source,) = self.lot.choices(list(_SOURCES), list(_SOURCES.values()))
        address, other = (f"{network}{self.lot.randrange(1, 25)}" for network in self.lot.sample(_NETWORKS, 2))
        unclaimed = source == "claim" and self.lot.random() < 0.25
        self.kinds["unclaimed" if unclaimed else source] += 1
        match source:
            case "cidrs":
                chosen = [address, other] if self.lot.random() < 0.15 else [address]
                self.kinds["over IPv6"] += any(":" in each for each in chosen)
                spec["source"] = {"cidrs": [f"{each}/{128 if ':' in each else 32}" for each in chosen]}
            case "pod":
                way = self.lot.choice(self._ways)
                spec["source"] = {"pod": {"name": name}}
                self.origins[name] = frozenset(way.addresses)
                self._runner(at + self.lot.uniform(-1.0, 2.0), name, "pod", way=way)
            case "claim":
                spec["source"] = {"claim": {"within": "10s" if unclaimed else "5m"}}
                self.origins[name] = frozenset() if unclaimed else frozenset([address])
                if not unclaimed:
                    self._runner(at + self.lot.uniform(0.2, 3.0), name, "claim", address=address)
            case "operator":
                spec["source"] = {"operator": {}}
                self.origins[name] = frozenset([SEEN])
        return not unclaimed

    def _live_by(self, at: float, name: str, spec: dict[str, Any]) -> str:
        (runner,) = self.lot.choices(list(_RUNNERS), list(_RUNNERS.values()))
        if "pod" in spec["source"]:
            runner = "pod" if self.lot.random() < 0.6 else "none"
        match runner:
            case "pod":
                spec["boundTo"] = {"apiVersion": "v1", "kind": "Pod", "name": name}
            case "job":
                spec["boundTo"] = {"apiVersion": "batch/v1", "kind": "Job", "name": name}
                self._runner(at - self.lot.uniform(0.0, 1.0), name, "job")
            case "heart":
                spec["heartbeat"] = HEART
                self._runner(at, name, "beat")
        return runner

    def _life(self, at: float, name: str, spec: dict[str, Any]) -> None:
        """Extended, shortened, stopped, deleted or left to expire."""
        lot = self.lot
        life, later = lot.random(), at + lot.uniform(0.2, 8.0)
        if life < 0.35:
            self._tenant(at, name, "create", spec=spec, ends_in=lot.uniform(2.0, 9.0))
        else:
            self._tenant(at, name, "create", spec={**spec, "duration": "1m" if life < 0.5 else "1h"})
        if 0.35 <= life < 0.5:
            self._tenant(at + lot.uniform(0.2, 4.0), name, "edit", spec={"duration": "2m"})
        if 0.35 <= life < 0.7:
            self._tenant(later + 4.0, name, "edit", spec={"stop": True})
        elif 0.7 <= life < 0.88:
            self._tenant(later, name, "delete")
        elif life >= 0.88:
            self._tenant(later, name, "edit", ends_in=lot.uniform(0.5, 4.0))


def drawn(
    lot: random.Random,
    sessions: int,
    per_second: float,
    names: Iterator[str],
    resources: Sequence[str],
    ways: Sequence[Way],
) -> Script:
    """The whole script."""
    draft, at = _Draft(lot, ways), 0.0
    for name in itertools.islice(names, sessions):
        at += lot.expovariate(per_second)
        draft.session(at, name, resources)
    return Script(sorted(draft.tenants), sorted(draft.runners), draft.origins, draft.kinds)
