"""A finder that answers what a test has written down, late or not at all."""

import asyncio

from gatepass.core.errors import SourceError
from gatepass.core.rules import Target
from gatepass.core.types.common import Key
from gatepass.core.types.session import AccessSession, AccessSessionStatus, SourceAddress
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import LoopClock

POD = {"pod": {"name": "runner"}}
HERE, THERE, SIX = "203.0.113.7", "203.0.113.99", "2001:db8::7"
DOOR = Key("ci", "staging-db")


class ScriptedFinder:
    """`answers` are addresses, or what is raised, by the session's name; `asked` tells every question."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[str, ...] | SourceError] = {}
        self.slow = 0.0
        self.asked: list[Key] = []

    async def find(self, session: AccessSession) -> tuple[SourceAddress, ...]:
        self.asked.append(session.key)
        await asyncio.sleep(self.slow)
        answer = self.answers[session.metadata.name]
        if isinstance(answer, SourceError):
            raise answer
        return tuple(map(seen, answer))


def seen(ip: str) -> SourceAddress:
    """The address, as it is found now."""
    version = 6 if ":" in ip else 4
    return SourceAddress(ip=ip, version=version, evidence=f"gateway of {ip}", observed_at=LoopClock().now())


def open_to(cloud: SlowFirewalls, group: Target) -> list[str]:
    """The addresses that a group lets in, in order."""
    return sorted(str(rule.rule).split("/")[0] for rule in cloud.rules(group).values())


def condition(status: AccessSessionStatus, kind: str) -> tuple[str, str, str] | None:
    """Its status, reason and message."""
    return next(((c.status, c.reason, c.message) for c in status.conditions if c.type == kind), None)


def says(status: AccessSessionStatus, kind: str, truth: str, reason: str, *words: str) -> None:
    """Assert all of that of a condition."""
    told = condition(status, kind)
    assert told is not None, f"there is no {kind}"
    assert told[:2] == (truth, reason), told
    assert all(word in told[2] for word in words), told
