"""What happens in a run, as data: made from a seed, kept as JSON, and shrunk by leaving steps out."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.simulation.pods import POD_ADDRESSES

GROUPS: Final = {"sg-0aaa": 6, "sg-0bbb": 10, "sg-0ccc": 60}
CIDRS: Final = (*(f"203.0.113.{n}/32" for n in range(1, 9)), "198.51.100.0/28", "2001:db8::7/128", "2001:db8::8/128")
STATIC: Final = ("192.0.2.0/28", "192.0.2.16/28", "203.0.113.1/32")
# Ports always: the order of a set that holds None differs from one run of Python to the next.
PORTS: Final = (
    [{"port": 5432}],
    [{"port": 5432}, {"port": 6379}],
    [{"port": 8000, "endPort": 8100}],
    [{"port": 53, "protocol": "UDP"}],
)
RESOURCES: Final = (("ci", "db"), ("ci", "cache"), ("ci", "web"), ("platform", "shared"), ("platform", "vault"))
DURATIONS: Final = ("1m", "2m", "5m", "10m", "30m", "1h", "2h", "6h")


@dataclass(frozen=True)
class Step:
    """At this second, somebody does this, or this fault begins."""

    at: float
    verb: str
    args: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        told = " ".join(f"{key}={json.dumps(value)}" for key, value in self.args.items())
        return f"{self.at:10.3f} {self.verb} {told}"


@dataclass(frozen=True)
class Script:
    """A run: `seed` draws latencies, fates and order; `seconds` is how long users are at work.

    Secrets are looked at every `look_seconds`: nobody edits one here, and as often as Gatepass looks by itself, that
    would be most of what happens.
    """

    seed: int
    seconds: float
    steps: tuple[Step, ...]
    look_seconds: float = 2.0

    def save(self, path: Path, **more: Any) -> None:
        """Keep it."""
        steps = [[step.at, step.verb, step.args] for step in self.steps]
        lines = ",\n    ".join(json.dumps(step) for step in steps)
        head = json.dumps({**more, "seed": self.seed, "seconds": self.seconds, "lookSeconds": self.look_seconds})[:-1]
        path.write_text(f'{head}, "steps": [\n    {lines}\n]}}\n')

    @classmethod
    def load(cls, path: Path) -> "Script":
        """Take it back."""
        kept = json.loads(path.read_text())
        steps = tuple(Step(*step) for step in kept["steps"])
        return cls(kept["seed"], kept["seconds"], steps, kept.get("lookSeconds", cls.look_seconds))


def write_script(seed: int, hours: float) -> Script:
    """A day, or part of one, of users at work and things going wrong."""
    chance = Random(f"script {seed}")
    seconds = hours * 3600
    tightened = _tightenings(Random(f"tightenings {seed}"), seconds)
    made = (*_beginning(chance), *_users(chance, seconds), *_storms(chance, seconds), *tightened)
    steps = [step for step in made if step.at < seconds]
    look_seconds = Random(f"looks {seed}").choice((2.0, *[60.0] * 9))
    return Script(seed, seconds, tuple(sorted(steps, key=lambda step: step.at)), look_seconds)


def _beginning(chance: Random) -> Iterator[Step]:
    for number, (namespace, name) in enumerate(RESOURCES):
        yield Step(1.0 + number / 10, "create-resource", _resource(chance, namespace, name))
    for name in sorted(POD_ADDRESSES)[:5]:
        yield Step(2.0, "move-pod", {"name": name, "to": [0]})


def _resource(chance: Random, namespace: str, name: str) -> dict[str, Any]:
    groups = chance.sample(list(GROUPS), chance.choice((1, 1, 2, 3)))
    aws: dict[str, Any] = {"region": "eu-central-1", "securityGroups": groups}
    if chance.random() < 0.3:
        aws["credentials"] = {"secretRef": {"name": "key"}}
    static = chance.sample(STATIC, chance.choice((0, 0, 0, 1, 2)))
    spec = {
        "aws": aws,
        "ports": chance.choice(PORTS),
        "staticCIDRs": [{"cidr": c} for c in static],
        "policy": _policy(chance, namespace),
    }
    return {"namespace": namespace, "name": name, "spec": spec, "held": chance.random() < 0.8}


def _policy(chance: Random, namespace: str) -> dict[str, Any]:
    policy: dict[str, Any] = {}
    if namespace == "platform" and chance.random() < 0.85:
        policy["allowedNamespaces"] = {"from": "All"}
    if chance.random() < 0.15:
        policy["maxDuration"] = chance.choice(("5m", "30m", "2h"))
    if chance.random() < 0.15:
        policy["maxConcurrentSessions"] = chance.choice((1, 2, 4))
    if chance.random() < 0.7:
        policy["minPrefixLength"] = {"ipv4": 28}
    if chance.random() < 0.5:
        policy["followAddressChanges"] = True
    return policy


def _users(chance: Random, seconds: float) -> Iterator[Step]:
    at, number = 5.0, 0
    pace = chance.choice((200.0, 400.0, 800.0))
    while at < seconds:
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            number += 1
            yield from _session(chance, at + chance.uniform(0, 2), number)
        if chance.random() < 0.25:
            yield _edit(chance, at + chance.uniform(0, 60))
        if chance.random() < 0.3:
            yield _move(chance, at + chance.uniform(0, 60))
        if chance.random() < 0.1:
            yield from _recreation(chance, at + chance.uniform(0, 60))
        if chance.random() < 0.15:
            yield from _by_hand(chance, at + chance.uniform(0, 60))
        at += chance.expovariate(1 / pace)


def _session(chance: Random, at: float, number: int) -> Iterator[Step]:
    name = f"s{chance.randrange(12)}" if chance.random() < 0.15 else f"it-{number}"
    references = chance.sample(RESOURCES, chance.choice((1, 1, 1, 2, 3)))
    spec = {
        "resources": [{"namespace": namespace, "name": name} for namespace, name in references],
        "source": _source(chance),
        "duration": chance.choice(DURATIONS),
    }
    if chance.random() < 0.2:
        spec["ttlAfterEnded"] = chance.choice(("0s", "10s", "10m"))
    yield from _runner(Random(f"runner {number} {at}"), at, name, f"job-{number}", spec)
    yield Step(at, "create-session", {"name": name, "spec": spec, "held": chance.random() < 0.8})
    later = at + chance.choice((0.05, 0.3, 1.0, 5.0, 30.0, 55.0, 59.9, 300.0, 1500.0)) * chance.uniform(0.8, 1.2)
    match chance.choice(("stop", "stop", "delete", "delete", "yank", "duration", "duration", "not-after", "", "", "")):
        case "stop":
            yield Step(later, "edit-session", {"name": name, "spec": {"stop": True}})
        case "delete":
            yield Step(later, "delete-session", {"name": name})
        case "yank" if chance.random() < 0.3:
            yield Step(later, "yank-session", {"name": name})
        case "duration":
            yield Step(later, "edit-session", {"name": name, "spec": {"duration": chance.choice(DURATIONS)}})
        case "not-after":
            yield Step(later, "not-after", {"name": name, "in": chance.choice((-10, 0, 5, 60, 600))})


def _source(chance: Random) -> dict[str, Any]:
    if chance.random() < 0.3:
        return {"pod": {"name": chance.choice(sorted(POD_ADDRESSES))}}
    return {"cidrs": chance.sample(CIDRS, chance.choice((1, 1, 1, 2)))}


def _move(chance: Random, at: float) -> Step:
    """A pod is scheduled or moves, or its way out gets or loses an address."""
    to = sorted(chance.sample(range(3), chance.choice((1, 1, 2))))
    return Step(at, "move-pod", {"name": chance.choice(sorted(POD_ADDRESSES)), "to": to})


def _runner(chance: Random, at: float, name: str, job: str, spec: dict[str, Any]) -> Iterator[Step]:
    """What the session lives by, if by anything; it has a source of chance of its own."""
    later = at + chance.choice((15.0, 60.0, 300.0, 1500.0)) * chance.uniform(0.8, 1.2)
    if chance.random() < 0.25:
        spec["boundTo"] = {"apiVersion": "batch/v1", "kind": "Job", "name": job}
        yield Step(at + chance.choice((-1.0, 0.1, 10.0)), "create-job", {"name": job})
        yield Step(later, chance.choice(("finish-job", "delete-job")), {"name": job})
    if chance.random() < 0.25:
        interval, missed = chance.choice((("5s", 2), ("10s", 3), ("30s", 3)))
        spec["heartbeat"] = {"interval": interval, "missed": missed}
        if chance.random() < 0.5:
            yield Step(later, "kill-runner", {"name": name})


def _edit(chance: Random, at: float) -> Step:
    namespace, name = chance.choice(RESOURCES)
    fresh = _resource(chance, namespace, name)["spec"]
    match chance.choice(("policy", "policy", "staticCIDRs", "ports", "groups", "groups")):
        case "groups":
            spec = {"groups": fresh["aws"]["securityGroups"]}
        case field:
            spec = {field: fresh[field]}
    return Step(at, "edit-resource", {"namespace": namespace, "name": name, "spec": spec})


def _tightenings(chance: Random, seconds: float) -> Iterator[Step]:
    """Bounds of new sessions come while those of before have to get their rules anew, and EC2 is not ready for it."""
    at = chance.uniform(500, 8000)
    while at < seconds:
        namespace, name = chance.choice(RESOURCES)
        resource = {"namespace": namespace, "name": name}
        policy = {"allowedNamespaces": {"from": "All"}, "minPrefixLength": {"ipv4": 28}}
        bound = chance.choice(({"requireReason": True}, {"maxDuration": "5m"}))
        yield Step(at, "edit-resource", {**resource, "spec": {"policy": {**policy, **bound}}})
        yield Step(at + 5, "fault", {"mode": "throttle", "seconds": 20.0})
        yield Step(at + 6, "edit-resource", {**resource, "spec": {"ports": chance.choice(PORTS)}})
        yield Step(at + 300, "edit-resource", {**resource, "spec": {"policy": policy}})
        at += chance.expovariate(1 / 8000)


def _recreation(chance: Random, at: float) -> Iterator[Step]:
    namespace, name = chance.choice(RESOURCES)
    yield Step(at, "delete-resource", {"namespace": namespace, "name": name})
    for later in (0.5, 60.0, 900.0, 3600.0, 8000.0):
        yield Step(at + later, "create-resource", _resource(chance, namespace, name))


def _by_hand(chance: Random, at: float) -> Iterator[Step]:
    """Another tool, or a person, at work on the same groups."""
    group = chance.choice(list(GROUPS))
    match chance.choice(("put", "put", "put", "remove", "unmark", "limit")):
        case "put":
            rule = {"group": group, "cidr": chance.choice((*CIDRS, *STATIC)), "port": chance.choice((22, 5432, 6379))}
            yield Step(at, "put-rule", rule)
            if chance.random() < 0.8:
                yield Step(at + chance.choice((1, 100, 1000, 5000)), "take-rule", rule)
        case "remove":
            yield Step(at, "remove-ours", {"group": group, "nth": chance.randrange(8)})
        case "unmark":
            what = chance.choice(("owner", "description", "both"))
            yield Step(at, "unmark", {"group": group, "nth": chance.randrange(8), "what": what})
        case "limit":
            yield Step(at, "limit", {"group": group, "limit": chance.choice((2, 5, 20, 60))})


CLOUD_FAULTS: Final = (
    "throttle",
    "slow",
    "lossy",
    "down",
    "lag",
    "lag",
    "denied",
    "denied-reads",
    "denied-key",
    "denied-key-grant",
    "denied-key-revoke",
    "denied-key-relabel",
    "expired",
)
FINDER_FAULTS: Final = ("finder-down", "finder-slow")
API_FAULTS: Final = ("api-lossy", "api-down", "api-slow", "events-late")


def _storms(chance: Random, seconds: float) -> Iterator[Step]:
    """Storms of an hour or so, with calm between them in which everything has to be right again."""
    at = chance.uniform(300, 4000)
    while at < seconds:
        kinds = chance.sample(("cloud", "api", "watch", "kill", "finder"), chance.choice((1, 1, 2, 4)))
        end = at + chance.uniform(300, 5000)
        while at < end:
            yield _fault(chance, at, chance.choice(kinds), seconds)
            at += chance.expovariate(1 / chance.choice((20.0, 200.0, 800.0)))
        at += chance.uniform(2500, 9000)
    if chance.random() < 0.15:
        yield Step(chance.uniform(0, seconds), "delete-group", {"group": chance.choice(list(GROUPS))})


def _fault(chance: Random, at: float, kind: str, over: float) -> Step:
    seconds = round(min(chance.choice((1, 5, 20, 60, 300, 900)) * chance.uniform(0.5, 1.5), max(over - at, 0.0)), 3)
    match kind:
        case "cloud":
            return Step(at, "fault", {"mode": chance.choice(CLOUD_FAULTS), "seconds": seconds})
        case "api":
            return Step(at, "fault", {"mode": chance.choice(API_FAULTS), "seconds": seconds})
        case "finder":
            return Step(at, "fault", {"mode": chance.choice(FINDER_FAULTS), "seconds": seconds})
        case "watch":
            plural = chance.choice(("accesssessions", "protectedresources", "jobs", "leases"))
            return Step(at, "break-watch", {"plural": plural, "seconds": seconds})
    return Step(at, "kill", {"turns": chance.randrange(200), "down": chance.choice((0.3, 1.0, 5.0, 60.0, 600.0))})
