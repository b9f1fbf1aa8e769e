"""Every state that an object can be in, as Gatepass itself would write it, and the health that it means."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.lifecycle import End
from gatepass.core.policy import Refusal
from gatepass.core.ports import TargetFacts
from gatepass.core.resource_status import Findings, resource_status
from gatepass.core.rules import Rule, Target
from gatepass.core.status import PresentRule, ResourceView, session_status
from gatepass.core.types.common import Key
from gatepass.core.types.resource import Capacity, FamilyCapacity
from gatepass.core.types.session import EndedReason
from tests.core.builders import NOON, a_resource, a_session

_DB, _CACHE = Key("ci", "staging-db"), Key("ci", "cache")
_RULE = PresentRule(Rule("203.0.113.7/32", "tcp", 5432, 5432), "sg-0aaa", "sgr-1", foreign=False)
_OPEN = ResourceView(_DB, "uid-1", (_RULE,), complete=True)
_REFUSED = ResourceView(_CACHE, "uid-2", refusal=Refusal("TargetNotFound", "sg-0bbb does not exist"))
_WAITING = ResourceView(_CACHE, "uid-2", waiting="place 1: needs 3 rules, 2 free")
_PENDING = ResourceView(_CACHE, "uid-2", trouble=Refusal("RequestLimitExceeded", "throttled"))
_LEAVING = ResourceView(_DB, "uid-1", (_RULE,), left=True)
_LEFT = ResourceView(_DB, "uid-1")
_EXPIRED = End(NOON, EndedReason.EXPIRED, latched=True)
_STOPPED = End(NOON, EndedReason.MANUAL, latched=True)


class Case(NamedTuple):
    """An object in a state; `health` is one of healthy, progressing, degraded."""

    name: str
    health: str
    status: dict[str, Any]


def sessions() -> Iterator[Case]:
    """Every row of the phase table."""
    rows: list[tuple[str, str, list[ResourceView], End | None]] = [
        ("pending", "progressing", [_PENDING], None),
        ("pending-waiting", "progressing", [_WAITING], None),
        ("active", "healthy", [_OPEN], None),
        ("partial-settled", "degraded", [_OPEN, _REFUSED], None),
        ("partial-waiting", "progressing", [_OPEN, _WAITING], None),
        ("failed", "degraded", [_REFUSED], None),
        ("expiring", "progressing", [_LEAVING], _EXPIRED),
        ("expired", "healthy", [_LEFT], _EXPIRED),
        ("cancelled", "healthy", [_LEFT], _STOPPED),
    ]
    for name, health, views, end in rows:
        until = NOON + timedelta(hours=1)
        status = session_status(a_session(), views, end, until, NOON, refresh_places=False)
        assert status.phase is not None
        assert name.split("-")[0] == status.phase.lower()
        yield Case(name, health, status.to_json())


def resources() -> Iterator[Case]:
    """Every way in which a ProtectedResource is, or is not, Ready."""
    target = Target("aws", "123456789012", "eu-central-1", "sg-0aaa")
    room = FamilyCapacity(used=3, limit=60, ours=1)
    ready = Findings(
        account="123456789012",
        external_id=None,
        refusal=None,
        targets={target: TargetFacts("db", "vpc-1", 60)},
        draining={},
        drained=frozenset(),
        capacity=Capacity(ipv4=room, ipv6=room),
        active=1,
        users=["ci/it-1"],
        shortages=[],
        conflicts=[],
        trouble=None,
        verified_at=NOON,
    )
    denied = ProviderError(Failure.FORBIDDEN, "CredentialsNotAllowed", "namespace ci may not use them")
    throttled = ProviderError(Failure.RETRY, "RequestLimitExceeded", "throttled")
    missing = ProviderError(Failure.NOT_FOUND, "InvalidGroup.NotFound", "it does not exist")
    rows = [
        ("ready", "healthy", ready),
        ("full", "healthy", replace(ready, shortages=["place 1: needs 3 rules, 2 free"])),
        ("not-read", "progressing", replace(ready, capacity=None)),
        ("denied", "degraded", replace(ready, account=None, refusal=denied, targets={target: denied})),
        ("throttled", "progressing", replace(ready, account=None, refusal=throttled, targets={}, capacity=None)),
        ("no-group", "degraded", replace(ready, targets={target: missing})),
        ("trouble", "degraded", replace(ready, trouble=ProviderError(Failure.FORBIDDEN, "AccessDenied", "no"))),
    ]
    for name, health, findings in rows:
        yield Case(name, health, resource_status(a_resource(), findings, NOON).to_json())
    going = a_resource(metadata={"deletionTimestamp": "2026-11-22T12:00:00Z"})
    yield Case("deleting", "progressing", resource_status(going, ready, NOON).to_json())


CASES = {"AccessSession": list(sessions()), "ProtectedResource": list(resources())}
ALL = [(kind, case) for kind, cases in CASES.items() for case in cases]
IDS = [f"{kind}-{case.name}" for kind, case in ALL]
