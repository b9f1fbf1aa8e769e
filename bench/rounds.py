"""One round: the floors in a sandbox without the operator, then Gatepass in one with it."""

import asyncio
from dataclasses import dataclass
from typing import Any

from bench import floor, load
from bench.api import Watch
from bench.floor import Steps
from bench.load import Opening
from bench.observed import breaches, observed
from bench.records import (
    AUTHORIZE,
    AuditLog,
    by_action,
    by_kind,
    most_until_ready,
    mutating,
    seconds_to_rule,
    throttled,
    throttled_percent,
)
from bench.scene import ACCOUNT, Scene, admin, build, gatepass_account
from gatepass.sandbox.environment import Sandbox

WARM_UPS = 5
PAUSE_SECONDS = 0.1
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
            "ec2_mutating_throttled_percent": throttled_percent(self.calls),
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
    """The same with the operator, and the `bare` floor of one session, which is measured in turn with it.

    `replayed` is how long bare boto3 takes for the burst's EC2 calls; `breaches` are the observer's.
    """

    bare: list[Steps]
    alone: Recorded
    burst: Recorded
    replayed: float
    steady: Steady | None
    breaches: list[str]


def floors(size: Size) -> Floors:
    """The floors."""
    with Sandbox(operator=False) as sandbox:
        many = build(sandbox, "burst", "eu-central-1", size.groups, verified=False)
        return Floors(asyncio.run(floor.burst(sandbox, many, size.burst, size.writers)))


def gatepass(size: Size, *, steady: bool) -> Gatepass:
    """The same with the operator; `steady` also waits until it is quiet, and looks whether it stays so."""
    served = {"GATEPASS_WATCH_NAMESPACES": "alone,burst"}
    # No trail: as the chart installs it by default.
    with Sandbox(audit=False, settings=served) as sandbox, observed(sandbox) as observer:
        bare = build(sandbox, "bare", "eu-west-2", 1, verified=False)
        alone = build(sandbox, "alone", "eu-west-1", 1, verified=True)
        many = build(sandbox, "burst", "eu-central-1", size.groups, verified=True)
        steps, one_by_one = asyncio.run(_one_at_a_time(sandbox, bare, alone, size))
        in_burst = asyncio.run(_burst(sandbox, many, size))
        authorized = [call for call in in_burst.calls if call["action"] == AUTHORIZE and call.get("effect") == "ok"]
        quiet = asyncio.run(_steady(sandbox)) if steady else None
        sandbox.stop_operator()
        return Gatepass(steps, one_by_one, in_burst, floor.replay(sandbox, authorized), quiet, breaches(observer))


async def _one_at_a_time(sandbox: Sandbox, bare: Scene, scene: Scene, size: Size) -> tuple[list[Steps], Recorded]:
    """The floor and Gatepass in turn, each when the other is done: a machine's speed changes within seconds."""
    steps, openings = [], []
    audit, last = AuditLog(sandbox.control_plane.audit_log), sandbox.ec2.last()
    async with admin(sandbox) as people, gatepass_account(sandbox) as account, Watch(people, scene.namespace) as watch:
        floor_ = floor.Bare(sandbox, bare, people, account)
        for number in range(WARM_UPS + size.alone):
            steps.append(await floor_.open(number))
            await asyncio.sleep(PAUSE_SECONDS)
            openings.append(await load.open_and_close(people, watch, scene, number))
            await asyncio.sleep(PAUSE_SECONDS)
    calls = [call for call in sandbox.ec2.log(last) if call.get("group") in scene.groups]
    writes = [entry for entry in audit.writes_by(ACCOUNT) if entry["objectRef"]["namespace"] == scene.namespace]
    openings = openings[WARM_UPS:]
    return steps[WARM_UPS:], Recorded(openings, seconds_to_rule(openings, calls), calls, writes)


async def _burst(sandbox: Sandbox, scene: Scene, size: Size) -> Recorded:
    audit, last = AuditLog(sandbox.control_plane.audit_log), sandbox.ec2.last()
    async with admin(sandbox) as api:
        openings = await load.burst(api, scene, size.burst, size.writers)
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
