"""`python -m bench.expiry`: a thousand sessions that end in the same second; written to bench/expiry.json.

How late each rule is gone is read from the call log of the EC2 emulator. 1 is the exit code for a missed bar.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from tests.observer.observer import Observer

from bench import load
from bench.figures import Figure, conclude, percentile
from bench.floor import PAUSE_SECONDS, REPLAY_REGION, authorize, permission
from bench.observed import breaches, figure, observed
from bench.records import by_action, throttled
from bench.scene import Scene, admin, build, ec2_client, new_group
from gatepass.sandbox.environment import Sandbox

RESULTS = Path(__file__).with_name("expiry.json")
NAMESPACE, REGION = "expiry", "eu-central-1"
WRITERS, GROUPS = 20, 20
LATE_SECONDS, CALLS = 1.0, 40
PATIENCE_SECONDS = 60.0
REVOKE = "RevokeSecurityGroupIngress"
LEFT_SECONDS = 5.0


@dataclass(frozen=True)
class Expiry:
    """When the rules went, in seconds after their end, the calls that it took, and the observer's breaches.

    `bare` is the floor's time.
    """

    late: list[float]
    calls: list[dict[str, Any]]
    bare: float
    breaches: list[str]

    @property
    def throttled_percent(self) -> float:
        """Of the Revoke calls."""
        return round(100 * throttled(self.calls) / max(len(self.calls), 1), 2)

    @property
    def lasted(self) -> float:
        """From the end until the last rule was gone."""
        return max(self.late)


def run(sandbox: Sandbox, observer: Observer, sessions: int, lead: float) -> Expiry:
    """Open them all, so that they end `lead` seconds from now, and see how they close."""
    scene = build(sandbox, NAMESPACE, REGION, GROUPS, verified=True)
    end = (datetime.now(UTC) + timedelta(seconds=lead)).replace(microsecond=0)
    ends = {"duration": "1h", "notAfter": end.isoformat().replace("+00:00", "Z")}
    asyncio.run(_open(sandbox, replace(scene, ends=ends), sessions))
    left = (end - datetime.now(UTC)).total_seconds()
    if left < LEFT_SECONDS:
        raise TimeoutError(f"the sessions were open {left:.0f} s before their end: give them more with --lead")
    last = sandbox.ec2.last()
    time.sleep(left)
    late, calls = _closed(sandbox, last, end, sessions)
    sandbox.stop_operator()
    return Expiry(late, calls, _bare(sandbox, [call for call in calls if call.get("removed")]), breaches(observer))


async def _open(sandbox: Sandbox, scene: Scene, sessions: int) -> None:
    async with admin(sandbox) as api:
        await load.burst(api, scene, sessions, WRITERS)


def _closed(sandbox: Sandbox, last: int, end: datetime, sessions: int) -> tuple[list[float], list[dict[str, Any]]]:
    """Wait until every rule is gone; how late each was, and all Revoke calls."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        calls = [call for call in sandbox.ec2.log(last) if call["action"] == REVOKE]
        late = [_seconds_after(end, call) for call in calls for _ in call.get("removed") or ()]
        if len(late) >= sessions:
            return late, calls
        if time.monotonic() > until:
            raise TimeoutError(f"{len(late)} of {sessions} rules are gone: see {sandbox.operator_log}")
        time.sleep(PAUSE_SECONDS)


def _seconds_after(end: datetime, call: Mapping[str, Any]) -> float:
    done = datetime.fromisoformat(call["time"]) + timedelta(milliseconds=call["ms"])
    return (done - end).total_seconds()


def _bare(sandbox: Sandbox, calls: Sequence[Mapping[str, Any]]) -> float:
    """Seconds that the same Revoke calls take by bare boto3, one after the other, on rules that were put before."""
    ec2 = ec2_client(sandbox, REPLAY_REGION)
    sandbox.ec2.set_throttles(on=False)
    batches = []
    for number, call in enumerate(calls):
        group = new_group(ec2, f"replayed-{number}")
        rules = [permission(f"198.18.0.{each + 1}/32") for each in range(len(call["removed"]))]
        batches.append((group, _ids(ec2, group, rules)))
    spent = 0.0
    for group, ids in batches:
        started = time.monotonic()
        ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=ids)
        spent += time.monotonic() - started
    return spent


def _ids(ec2: Any, group: str, rules: Sequence[Mapping[str, Any]]) -> list[str]:
    authorize(ec2, group, rules)
    found = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}], MaxResults=1000)
    return [each["SecurityGroupRuleId"] for each in found["SecurityGroupRules"] if not each["IsEgress"]]


def figures(found: Expiry) -> list[Figure]:
    """All of them."""
    late = {percent: round(percentile(found.late, percent), 3) for percent in (50, 99, 100)}
    return [
        Figure("closed after the end, p50", late[50], "s"),
        Figure("closed after the end, p99", late[99], "s", bar=LATE_SECONDS),
        Figure(
            "closed after the end, the last, and the same calls by bare boto3",
            late[100],
            "s",
            round(found.bare, 3),
            round(found.lasted / found.bare, 2),
        ),
        Figure("closed before the end", sum(each < 0 for each in found.late), "rules", bar=0),
        Figure("Revoke calls", len(found.calls), "", bar=CALLS),
        Figure("Revoke calls throttled", found.throttled_percent, "%", bar=1),
        figure(found.breaches),
    ]


def main() -> int:
    """Parse the arguments and run; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.expiry", description=__doc__)
    parser.add_argument("--sessions", type=int, default=1000, help="how many end at once (default: 1000)")
    parser.add_argument("--lead", type=float, default=60.0, help="seconds to open them in (default: 60)")
    given = parser.parse_args()
    console = Console()
    with (
        console.status("sessions that end at once"),
        Sandbox(audit=False) as sandbox,
        observed(sandbox) as observer,
    ):
        found = run(sandbox, observer, given.sessions, given.lead)
    taken = figures(found)
    told = {"figures": [{**asdict(each), "passed": each.passed} for each in taken], "late": found.late}
    told = {**told, "calls": by_action(found.calls), "breaches": found.breaches}
    RESULTS.write_text(json.dumps(told, indent=1) + "\n")
    title = f"{given.sessions} sessions over {GROUPS} groups that end in the same second"
    return conclude(title, taken, found.breaches, console)


if __name__ == "__main__":
    sys.exit(main())
