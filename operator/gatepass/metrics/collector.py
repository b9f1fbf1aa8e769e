"""The engine's state in Prometheus's terms, looked up at the scrape so that nothing else pays for it."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from gatepass.core.placement import FAMILIES
from gatepass.core.rules import Target
from gatepass.core.types.common import Key
from gatepass.core.types.resource import Capacity, FamilyCapacity
from gatepass.core.types.session import Phase
from gatepass.engine.drift import REPAIRS
from gatepass.engine.insight import Snapshot, TargetInsight
from gatepass.engine.queue import Load


class EngineCollector(Collector):
    """Asks `snapshot` at each scrape, which has to happen in the event loop. Labels name targets, never sessions."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: registering must not look at the state."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families."""
        seen = self._snapshot()
        yield from _sessions(seen)
        yield from _resources(seen)
        yield from _targets(seen.targets, seen.strangers)
        yield from _queues(seen.queues)
        yield _counter(
            "gatepass_drift_repaired",
            "Repairs of what others did to our rules, found by reading again: put_back, removed (ours, but wanted by "
            "nobody) and marked (its description or tag).",
            ["kind"],
            {(kind,): seen.repaired.get(kind, 0) for kind in REPAIRS},
        )


class SelfCollector(Collector):
    """What the process knows of itself: its version, its clock, its part among replicas, its watches."""

    def __init__(
        self,
        version: str,
        clock_offset: Callable[[], float],
        leading: Callable[[], bool],
        watch_ages: Callable[[], Mapping[str, float]],
    ) -> None:
        self._version = version
        self._clock_offset = clock_offset
        self._leading = leading
        self._watch_ages = watch_ages

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families."""
        yield InfoMetricFamily("gatepass_build", "The version that runs.", {"version": self._version})
        yield GaugeMetricFamily(
            "gatepass_leader",
            "1 while this process works on the firewalls, 0 while it starts or stands by.",
            value=float(self._leading()),
        )
        yield GaugeMetricFamily(
            "gatepass_clock_offset_seconds",
            "How far the node's clock is ahead of the API server's, by which Gatepass counts; to the second.",
            value=self._clock_offset(),
        )
        yield _gauge(
            "gatepass_watch_age_seconds",
            "Seconds since the last request for objects of this kind was begun: a watch is renewed within minutes.",
            ["kind"],
            {(kind,): age for kind, age in self._watch_ages().items()},
        )


def _sessions(seen: Snapshot) -> Iterator[Metric]:
    yield _gauge(
        "gatepass_sessions",
        "AccessSessions by phase.",
        ["phase"],
        {(phase.value,): seen.sessions.get(phase, 0) for phase in Phase},
    )
    yield GaugeMetricFamily(
        "gatepass_claims_waiting",
        "Wishes of sessions and static ranges for a resource that wait for room.",
        value=seen.waiting,
    )
    yield GaugeMetricFamily(
        "gatepass_overdue_seconds",
        "Seconds since the time was up of what has been open too long, the longest of all; 0 while nothing is.",
        value=seen.overdue_seconds,
    )


def _resources(seen: Snapshot) -> Iterator[Metric]:
    yield GaugeMetricFamily("gatepass_resources", "ProtectedResources.", value=seen.resources)
    yield _gauge(
        "gatepass_resources_not_ready",
        "ProtectedResources that are not Ready, by the reason of the condition.",
        ["reason"],
        {(reason,): count for reason, count in seen.unready.items()},
    )
    yield _gauge(
        "gatepass_resource_rules_used",
        "Rules in the groups of a ProtectedResource, whoever made them, as the firewall counts them.",
        ["resource", "family"],
        _by_family(seen.capacities, lambda family: family.used),
    )
    yield _gauge(
        "gatepass_resource_rules_limit",
        "Rules that the groups of a ProtectedResource take.",
        ["resource", "family"],
        _by_family(seen.capacities, lambda family: family.limit),
    )


def _by_family(
    capacities: Mapping[Key, Capacity], value: Callable[[FamilyCapacity], int]
) -> dict[tuple[str, ...], float]:
    return {
        (str(key), f"ipv{number}"): value(family)
        for key, capacity in capacities.items()
        for number, family in zip(FAMILIES, (capacity.ipv4, capacity.ipv6), strict=True)
    }


def _targets(targets: Iterable[TargetInsight], strangers: Mapping[Target, int]) -> Iterator[Metric]:
    seen = {(each.target.account, each.target.region, each.target.id): each for each in targets}
    place = ["account", "region", "target"]

    def rules(name: str, text: str, counts: Callable[[TargetInsight], Mapping[int, int]]) -> Metric:
        values: dict[tuple[str, ...], float] = {
            (*labels, f"ipv{family}"): count for labels, each in seen.items() for family, count in counts(each).items()
        }
        return _gauge(name, text, [*place, "family"], values)

    yield rules("gatepass_target_rules_used", "Rules of a target as the firewall counts them.", lambda t: t.used)
    yield rules("gatepass_target_rules_limit", "Rules that a target takes.", lambda t: t.limit)
    yield rules("gatepass_target_rules_ours", "Rules of a target that carry our marks.", lambda t: t.ours)
    yield _gauge(
        "gatepass_target_rules_overdue",
        "Rules of ours that nobody wants and whose own time is up.",
        place,
        {labels: each.overdue for labels, each in seen.items()},
    )
    yield _gauge(
        "gatepass_target_conflicts",
        "Rules that carry one of our two marks, and are left alone (OwnerConflict).",
        place,
        {labels: each.conflicts for labels, each in seen.items()},
    )
    yield _gauge(
        "gatepass_target_strangers",
        "Rules that carry both of our marks and were not made by us, so that nothing is revoked (OwnerConflict).",
        place,
        {(target.account, target.region, target.id): count for target, count in strangers.items()},
    )
    yield _gauge(
        "gatepass_target_failing",
        "1 while a target cannot be verified, read or written with the credentials of somebody who names it.",
        place,
        {labels: each.failing for labels, each in seen.items()},
    )


def _queues(queues: Mapping[str, Load]) -> Iterator[Metric]:
    def each(value: Callable[[Load], float]) -> dict[tuple[str, ...], float]:
        return {(name,): value(load) for name, load in queues.items()}

    yield _gauge("gatepass_queue_depth", "Keys that wait for a worker.", ["queue"], each(lambda load: load.due))
    yield _gauge(
        "gatepass_queue_oldest_seconds",
        "How long the key has waited that has waited longest.",
        ["queue"],
        each(lambda load: load.oldest_seconds),
    )
    yield _gauge("gatepass_queue_active", "Keys that are worked on.", ["queue"], each(lambda load: load.active))
    yield _gauge(
        "gatepass_queue_failing",
        "Keys whose last pass did not succeed, and that are tried again with backoff.",
        ["queue"],
        each(lambda load: load.failing),
    )
    yield _counter("gatepass_queue_retries", "Passes put off by backoff.", ["queue"], each(lambda load: load.retries))


def _gauge(name: str, text: str, labels: list[str], values: Mapping[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for names, value in values.items():
        family.add_metric(names, float(value))
    return family


def _counter(name: str, text: str, labels: list[str], values: Mapping[tuple[str, ...], float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for names, value in values.items():
        family.add_metric(names, float(value))
    return family
