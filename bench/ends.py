"""`python -m bench.ends`: what sessions cost that are bound to Jobs, and how fast they close when the Jobs are over.

Prints a table and writes bench/ends.json. `--sessions 500 --ending 100` is a look at it.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.api import MERGE_PATCH, SESSIONS, Api
from bench.scene import Scene, address, admin, build, session_name
from gatepass.sandbox.environment import Sandbox

RESULTS = Path(__file__).with_name("ends.json")
JOBS = "/apis/batch/v1/namespaces/{}/jobs"
POD = {"restartPolicy": "Never", "containers": [{"name": "run", "image": "runner"}]}
GROUPS = 20
PATIENCE_SECONDS = 900.0
REVOKE = "RevokeSecurityGroupIngress"


@dataclass(frozen=True)
class Found:
    """The figures; memory is the operator's resident set, and seconds go from the Job's end to the rule's."""

    sessions: int
    ending: int
    unbound_mb: float
    bound_mb: float
    watches: int
    ended_in: float
    p50: float
    p99: float


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m bench.ends", description=__doc__)
    parser.add_argument("--sessions", type=int, default=5000)
    parser.add_argument("--ending", type=int, default=1000, help="so many Jobs end at once")
    given = parser.parse_args()
    console = Console()
    with console.status("unbound sessions"):
        unbound, *_ = _round(given.sessions, given.ending, bound=False)
    with console.status("bound sessions"):
        bound, watches, ended_in, seconds = _round(given.sessions, given.ending, bound=True)
    p50, p99 = (seconds[min(int(len(seconds) * share), len(seconds) - 1)] for share in (0.5, 0.99))
    found = Found(given.sessions, given.ending, unbound, bound, watches, ended_in, p50, p99)
    RESULTS.write_text(json.dumps(asdict(found), indent=1) + "\n")
    console.print(f"{given.sessions} bound sessions: {bound - unbound:.1f} MB more than unbound ones (bar: 40)")
    console.print(f"watches of Jobs: {watches} (bar: 1)")
    console.print(
        f"{given.ending} Jobs ended in {ended_in:.1f} s: rules gone after p50 {p50:.2f} s, p99 {p99:.2f} s (bar: 2)"
    )


def _round(sessions: int, ending: int, *, bound: bool) -> tuple[float, int, float, list[float]]:
    with Sandbox(audit=False) as sandbox:  # as the chart installs it by default
        scene = build(sandbox, "ends", "eu-central-1", GROUPS, verified=True)
        return asyncio.run(_measure(sandbox, scene, sessions, ending, bound=bound))


async def _measure(
    sandbox: Sandbox, scene: Scene, sessions: int, ending: int, *, bound: bool
) -> tuple[float, int, float, list[float]]:
    async with admin(sandbox) as api, asyncio.timeout(PATIENCE_SECONDS):
        await _all(sessions, lambda number: _make_job(api, scene, number))
        await _all(sessions, lambda number: _make_session(api, scene, number, ending, bound=bound))
        made = await _until_active(api, scene, sessions, bound=bound)
        memory = _resident_mb(sandbox)
        if not bound:
            return memory, 0, 0.0, []
        watches = _watches(sandbox)
        last, began = sandbox.ec2.last(), time.monotonic()
        ended: dict[str, datetime] = {}
        await _all(ending, lambda number: _end_job(api, scene, number, ended))
        took = time.monotonic() - began
        seconds: list[float] = []
        while len(seconds) < ending:
            await asyncio.sleep(0.5)
            seconds = _until_gone(sandbox.ec2.log(last), made, ended)
        return memory, watches, took, sorted(seconds)


async def _all(number: int, do: Callable[[int], Awaitable[object]], writers: int = 48) -> None:
    numbers = iter(range(number))

    async def work() -> None:
        for each in numbers:
            await do(each)

    await asyncio.gather(*(work() for _ in range(writers)))


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


async def _until_active(api: Api, scene: Scene, number: int, *, bound: bool) -> dict[str, str]:
    """Wait until all are open; answers the source of each rule by its id."""

    def is_open(item: dict[str, Any]) -> bool:
        status = item.get("status", {})
        return status.get("phase") == "Active" and (not bound or "boundTo" in status)

    while True:
        items = (await api.call("GET", f"{SESSIONS.format(scene.namespace)}?resourceVersion=0"))["items"]
        if sum(map(is_open, items)) == number:
            entries = (entry for item in items for entry in item["status"]["resources"])
            return {rule["id"]: rule["cidr"] for entry in entries for rule in entry["rules"]}
        await asyncio.sleep(1)


async def _end_job(api: Api, scene: Scene, number: int, ended: dict[str, datetime]) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    done = [{"type": kind, "status": "True"} for kind in ("SuccessCriteriaMet", "Complete")]
    status = {"startTime": now, "completionTime": now, "conditions": done}
    path = f"{JOBS.format(scene.namespace)}/{session_name(number)}/status"
    await api.call("PATCH", path, {"status": status}, content_type=MERGE_PATCH)
    ended[address(number)] = datetime.now(UTC)


def _until_gone(calls: list[dict[str, Any]], made: dict[str, str], ended: dict[str, datetime]) -> list[float]:
    """Of each rule that is gone, how long after its Job; `made` leads from a rule's id to its source."""
    gone: dict[str, datetime] = {}
    for call in calls:
        if call["action"] == REVOKE and call.get("effect") == "ok":
            done = datetime.fromisoformat(call["time"]) + timedelta(milliseconds=call["ms"])
            gone.update({made[id_]: done for id_ in call["removed"]})
    return [max((gone[source] - at).total_seconds(), 0.0) for source, at in ended.items() if source in gone]


def _resident_mb(sandbox: Sandbox) -> float:
    status = Path(f"/proc/{sandbox.operator_pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def _watches(sandbox: Sandbox) -> int:
    """How many watches of Jobs have been begun by Gatepass."""
    lines = sandbox.control_plane.audit_log.read_text().splitlines()
    entries = (json.loads(line) for line in lines if '"verb":"watch"' in line and '"resource":"jobs"' in line)
    mine = [entry for entry in entries if entry["user"]["username"].endswith(":gatepass")]
    return len({entry["auditID"] for entry in mine})


if __name__ == "__main__":
    main()
