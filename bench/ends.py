"""`python -m bench.ends`: what sessions cost that are bound to Jobs, and how fast they close when the Jobs are over.

Prints a table and writes bench/ends.json; 1 is the exit code for a missed bar.
`--sessions 500 --ending 100` is a look at it.

A Job counts as over from when the request is sent that says so: before the API server has it, and before anybody could
know. Memory is the median of ten samples of the operator's resident set, one a second.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from tests.observer.observer import Observer

from bench.api import MERGE_PATCH, SESSIONS, Api
from bench.figures import Figure, conclude, percentile
from bench.load import spread
from bench.observed import breaches, figure, observed
from bench.processes import memory
from bench.records import open_watches
from bench.scene import ACCOUNT, Scene, address, admin, build, session_name
from gatepass.sandbox.environment import Sandbox

RESULTS = Path(__file__).with_name("ends.json")
JOBS = "/apis/batch/v1/namespaces/{}/jobs"
POD = {"restartPolicy": "Never", "containers": [{"name": "run", "image": "runner"}]}
GROUPS = 20
PATIENCE_SECONDS = 900.0
SAMPLES = 10
MORE_MIB, LATE_SECONDS = 40.0, 2.0
REVOKE = "RevokeSecurityGroupIngress"


@dataclass(frozen=True)
class Live:
    """What live sessions take: MiB, and the watches that are open, by what they follow."""

    resident: float
    watches: dict[str, int]


@dataclass(frozen=True)
class Ends:
    """In how many seconds the ends were sent, and how many after its own each rule was gone."""

    sent_in: float
    late: list[float]


@dataclass(frozen=True)
class Round:
    """One kind of sessions; unbound ones do not end."""

    live: Live
    ends: Ends
    breaches: list[str]


def main() -> int:
    """Parse the arguments and run; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.ends", description=__doc__)
    parser.add_argument("--sessions", type=int, default=5000)
    parser.add_argument("--ending", type=int, default=1000, help="so many Jobs end at once")
    given = parser.parse_args()
    console = Console()
    with console.status("unbound sessions"):
        unbound = _round(given.sessions, given.ending, bound=False)
    with console.status("bound sessions"):
        bound = _round(given.sessions, given.ending, bound=True)
    found, broken = figures(unbound, bound), [*unbound.breaches, *bound.breaches]
    told = {"unbound": asdict(unbound), "bound": asdict(bound)}
    taken = [{**asdict(each), "passed": each.passed} for each in found]
    RESULTS.write_text(json.dumps({"figures": taken, **told}, indent=1) + "\n")
    return conclude(f"{given.sessions} bound sessions, of which {given.ending} end at once", found, broken, console)


def figures(unbound: Round, bound: Round) -> list[Figure]:
    """All of them."""
    late = {percent: round(percentile(bound.ends.late, percent), 2) for percent in (50, 99, 100)}
    more = Counter(bound.live.watches) - Counter(unbound.live.watches)
    return [
        Figure(
            "memory above unbound sessions", round(bound.live.resident - unbound.live.resident, 1), "MiB", bar=MORE_MIB
        ),
        Figure("memory, resident", bound.live.resident, "MiB", unbound.live.resident),
        Figure(f"watches above those of unbound sessions: {', '.join(more) or 'none'}", more.total(), "", bar=1),
        Figure("Jobs ended in", round(bound.ends.sent_in, 1), "s"),
        Figure("closed after the end was sent, p50", late[50], "s"),
        Figure("closed after the end was sent, p99", late[99], "s", bar=LATE_SECONDS),
        Figure("closed after the end was sent, the last", late[100], "s"),
        figure([*unbound.breaches, *bound.breaches]),
    ]


def _round(sessions: int, ending: int, *, bound: bool) -> Round:
    with (
        Sandbox(audit=False) as sandbox,
        observed(sandbox) as observer,
    ):  # no trail: as the chart installs it by default
        scene = build(sandbox, "ends", "eu-central-1", GROUPS, verified=True)
        live, ends = asyncio.run(_measure(sandbox, observer, scene, sessions, ending, bound=bound))
        return Round(live, ends, breaches(observer))


async def _measure(
    sandbox: Sandbox, observer: Observer, scene: Scene, sessions: int, ending: int, *, bound: bool
) -> tuple[Live, Ends]:
    async with admin(sandbox) as api, asyncio.timeout(PATIENCE_SECONDS):
        await spread(sessions, lambda number: _make_job(api, scene, number))
        await spread(sessions, lambda number: _make_session(api, scene, number, ending, bound=bound))
        items = await _until_active(api, scene, sessions, bound=bound)
        live = Live(await _resident(sandbox), open_watches(sandbox.control_plane.audit_log, ACCOUNT))
        return live, await _end(sandbox, observer, api, scene, items, ending) if bound else Ends(0.0, [])


async def _end(
    sandbox: Sandbox, observer: Observer, api: Api, scene: Scene, items: list[dict[str, Any]], ending: int
) -> Ends:
    made = {
        rule["id"]: rule["cidr"] for item in items for entry in item["status"]["resources"] for rule in entry["rules"]
    }
    last, began = sandbox.ec2.last(), time.monotonic()
    sent: dict[str, datetime] = {}
    await spread(ending, lambda number: _end_job(api, scene, number, sent))
    took = time.monotonic() - began
    late: list[float] = []
    while len(late) < ending:
        await asyncio.sleep(0.5)
        late = _until_gone(sandbox.ec2.log(last), made, sent)
    for item in items:
        if (at := sent.get(item["spec"]["source"]["cidrs"][0])) is not None:
            observer.runner_lost(item["metadata"]["uid"], at=at.timestamp())
    return Ends(took, sorted(late))


async def _make_job(api: Api, scene: Scene, number: int) -> None:
    body = {"metadata": {"name": session_name(number)}, "spec": {"template": {"spec": POD}}}
    await api.call("POST", JOBS.format(scene.namespace), body)


async def _make_session(api: Api, scene: Scene, number: int, ending: int, *, bound: bool) -> None:
    """Those that will end have an address of their own, the others one for each group: it holds 60 rules."""
    body: dict[str, Any] = scene.session(number)
    if number >= ending:
        body["spec"]["source"] = {"cidrs": [address(10_000 + number % GROUPS)]}
    if bound:
        body["spec"]["boundTo"] = {"apiVersion": "batch/v1", "kind": "Job", "name": session_name(number)}
    await api.call("POST", SESSIONS.format(scene.namespace), body)


async def _until_active(api: Api, scene: Scene, number: int, *, bound: bool) -> list[dict[str, Any]]:
    """Wait until all are open; answers them."""

    def is_open(item: dict[str, Any]) -> bool:
        status = item.get("status", {})
        return status.get("phase") == "Active" and (not bound or "boundTo" in status)

    while True:
        items: list[dict[str, Any]] = (await api.call("GET", f"{SESSIONS.format(scene.namespace)}?resourceVersion=0"))[
            "items"
        ]
        if sum(map(is_open, items)) == number:
            return items
        await asyncio.sleep(1)


async def _end_job(api: Api, scene: Scene, number: int, sent: dict[str, datetime]) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    done = [{"type": kind, "status": "True"} for kind in ("SuccessCriteriaMet", "Complete")]
    status = {"startTime": now, "completionTime": now, "conditions": done}
    path = f"{JOBS.format(scene.namespace)}/{session_name(number)}/status"
    sent[address(number)] = datetime.now(UTC)
    await api.call("PATCH", path, {"status": status}, content_type=MERGE_PATCH)


def _until_gone(calls: list[dict[str, Any]], made: dict[str, str], sent: dict[str, datetime]) -> list[float]:
    """Of each rule that is gone, how long after its Job's end was sent; `made` leads from a rule's id to its source."""
    gone: dict[str, datetime] = {}
    for call in calls:
        if call["action"] == REVOKE and call.get("effect") == "ok":
            done = datetime.fromisoformat(call["time"]) + timedelta(milliseconds=call["ms"])
            gone.update({made[id_]: done for id_ in call["removed"]})
    return [max((gone[source] - at).total_seconds(), 0.0) for source, at in sent.items() if source in gone]


async def _resident(sandbox: Sandbox) -> float:
    samples = []
    for _ in range(SAMPLES):
        await asyncio.sleep(1)
        samples.append(memory(sandbox.operator_pid or 0).resident)
    return round(statistics.median(samples), 1)


if __name__ == "__main__":
    sys.exit(main())
