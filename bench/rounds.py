"""One round: the floors in a sandbox without the operator, then Gatepass in one with it."""

import asyncio
from dataclasses import dataclass
from typing import Any

from bench import floor, load
from bench.floor import Steps
from bench.load import Opening
from bench.records import (
    AUTHORIZE,
    AuditLog,
    by_action,
    by_kind,
    most_until_ready,
    mutating,
    seconds_to_rule,
    throttled,
)
from bench.scene import ACCOUNT, Scene, admin, build
from gatepass.sandbox.environment import Sandbox

WARM_UPS = 5
QUIET_SECONDS = 3.0
QUIET_LATEST_SECONDS = 180.0
STEADY_SECONDS = 10.0


@dataclass(frozen=True)
class Size:
    """How much is asked."""

    alone: int = 30
    burst: int = 1000
    writers: int = 20
    groups: int = 20


@dataclass(frozen=True)
class Floors:
    """What nothing can beat."""

    alone: list[Steps]
    burst: list[Opening]


@dataclass(frozen=True)
class Recorded:
    """Openings, and what the logs of others say of that time."""

    openings: list[Opening]
    to_rule: list[float]
    calls: list[dict[str, Any]]
    writes: list[dict[str, Any]]

    @property
    def summary(self) -> dict[str, Any]:
        """The counts."""
        return {
            "ec2": by_action(self.calls),
            "ec2_mutating": mutating(self.calls),
            "ec2_throttled": throttled(self.calls),
            "api_writes": by_kind(self.writes),
            "writes_per_session_until_ready": most_until_ready(self.openings, self.writes),
        }


@dataclass(frozen=True)
class Steady:
    """What happens while nothing changes."""

    ec2_calls: int
    api_writes: int


@dataclass(frozen=True)
class Gatepass:
    """The same with the operator; `replayed` is how long bare boto3 takes for the burst's EC2 calls."""

    alone: Recorded
    burst: Recorded
    replayed: float
    steady: Steady | None


def floors(size: Size) -> Floors:
    """The floors."""
    with Sandbox(operator=False) as sandbox:
        alone = build(sandbox, "alone", "eu-west-1", 1, verified=False)
        steps = asyncio.run(floor.one_at_a_time(sandbox, alone, range(WARM_UPS + size.alone)))
        many = build(sandbox, "burst", "eu-central-1", size.groups, verified=False)
        return Floors(steps[WARM_UPS:], asyncio.run(floor.burst(sandbox, many, size.burst, size.writers)))


def gatepass(size: Size, *, steady: bool) -> Gatepass:
    """The same with the operator; `steady` also waits until it is quiet, and looks whether it stays so."""
    with Sandbox(audit=False) as sandbox:  # as the chart installs it by default
        alone = build(sandbox, "alone", "eu-west-1", 1, verified=True)
        many = build(sandbox, "burst", "eu-central-1", size.groups, verified=True)
        one_by_one = asyncio.run(_alone(sandbox, alone, size))
        in_burst = asyncio.run(_burst(sandbox, many, size))
        authorized = [call for call in in_burst.calls if call["action"] == AUTHORIZE and call.get("effect") == "ok"]
        quiet = asyncio.run(_steady(sandbox)) if steady else None
        sandbox.stop_operator()
        return Gatepass(one_by_one, in_burst, floor.replay(sandbox, authorized), quiet)


async def _alone(sandbox: Sandbox, scene: Scene, size: Size) -> Recorded:
    async with admin(sandbox) as api:
        await load.one_at_a_time(api, scene, range(WARM_UPS))
        audit, last = AuditLog(sandbox.control_plane.audit_log), sandbox.ec2.last()
        openings = await load.one_at_a_time(api, scene, range(WARM_UPS, WARM_UPS + size.alone))
    return _recorded(sandbox, openings, audit, last)


async def _burst(sandbox: Sandbox, scene: Scene, size: Size) -> Recorded:
    audit, last = AuditLog(sandbox.control_plane.audit_log), sandbox.ec2.last()
    async with admin(sandbox) as api:
        openings = await load.burst(api, scene, size.burst, size.writers)
    return _recorded(sandbox, openings, audit, last)


def _recorded(sandbox: Sandbox, openings: list[Opening], audit: AuditLog, last: int) -> Recorded:
    calls = sandbox.ec2.log(last)
    return Recorded(openings, seconds_to_rule(openings, calls), calls, audit.writes_by(ACCOUNT))


async def _steady(sandbox: Sandbox) -> Steady:
    """Events come after, and are rate limited: wait for their end, then count whatever still happens."""
    async with asyncio.timeout(QUIET_LATEST_SECONDS):
        while await _happened(sandbox, QUIET_SECONDS) != Steady(0, 0):
            pass
    return await _happened(sandbox, STEADY_SECONDS)


async def _happened(sandbox: Sandbox, seconds: float) -> Steady:
    audit, last = AuditLog(sandbox.control_plane.audit_log), sandbox.ec2.last()
    await asyncio.sleep(seconds)
    return Steady(len(sandbox.ec2.log(last)), len(audit.writes_by(ACCOUNT)))
