"""`python -m bench.waiting`: a thousand sessions on one group of sixty; written to bench/waiting.json.

Sixty are open, all others are told their place and why. Then all that are open are stopped at once, again and again,
and the next sixty have to open, in the order of creation. 1 is the exit code for a missed bar.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.api import MERGE_PATCH, SESSIONS, Api, Watch, is_ready
from bench.figures import Figure, conclude, percentile
from bench.load import spread
from bench.observed import breaches, figure, observed
from bench.processes import cpu_seconds
from bench.records import throttled
from bench.scene import Scene, admin, build
from gatepass.sandbox.environment import Sandbox

RESULTS = Path(__file__).with_name("waiting.json")
ROOM = 60
"""Rules that AWS lets into a group by default."""
WRITERS = 20
PATIENCE_SECONDS = 600.0
_PLACE = re.compile(r"place (\d+): needs 1 rule, 0 free \(IPv4\)")


@dataclass
class Line:
    """Whose places are wrong once all are told, who opened before his turn, and how soon the next opened.

    Those who overtook others did so while all came at once: nobody waits for the admission of somebody else.
    """

    created: list[str] = field(default_factory=list)
    told_in: float = 0.0
    overtook: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    before_turn: list[str] = field(default_factory=list)
    opened_after: list[float] = field(default_factory=list)
    cpu: float = 0.0


async def stand_in_line(sandbox: Sandbox, scene: Scene, sessions: int) -> Line:
    """Make them, and have them open sixty at a time."""
    line, pid = Line(), sandbox.operator_pid or 0
    before = cpu_seconds(pid)
    async with admin(sandbox) as api, asyncio.timeout(PATIENCE_SECONDS), Watch(api, scene.namespace) as watch:
        made: dict[str, tuple[str, int]] = {}
        began = time.monotonic()
        await spread(sessions, lambda number: _make(api, scene, number, made), WRITERS)
        line.created = sorted(made, key=lambda name: made[name])
        live, places = await _until_told(api, scene, sessions)
        line.told_in = time.monotonic() - began
        waiting = [name for name in line.created if name not in live]
        line.misplaced = [name for place, name in enumerate(waiting, 1) if places[name] != place]
        line.overtook = sorted(live - set(line.created[:ROOM]))
        while waiting:
            following, waiting = waiting[:ROOM], waiting[ROOM:]
            stopped = time.monotonic()
            await _stop(api, scene, sorted(live))
            line.opened_after += [await watch.ready(name) - stopped for name in following]
            shut, live = live, {name for name, item in (await _items(api, scene)).items() if is_ready(item)}
            line.before_turn += live - shut - set(following)  # who is shut may not have been told yet
    line.cpu = cpu_seconds(pid) - before
    return line


async def _make(api: Api, scene: Scene, number: int, made: dict[str, tuple[str, int]]) -> None:
    """Of one second, in which the API server tells when an object was made, the first is who has the first version."""
    metadata = (await api.call("POST", SESSIONS.format(scene.namespace), scene.session(number)))["metadata"]
    made[metadata["name"]] = metadata["creationTimestamp"], int(metadata["resourceVersion"])


async def _stop(api: Api, scene: Scene, names: Sequence[str]) -> None:
    async def stop(number: int) -> None:
        path = f"{SESSIONS.format(scene.namespace)}/{names[number]}"
        await api.call("PATCH", path, {"spec": {"stop": True}}, content_type=MERGE_PATCH)

    await spread(len(names), stop, WRITERS)


async def _items(api: Api, scene: Scene) -> dict[str, dict[str, Any]]:
    items = (await api.call("GET", SESSIONS.format(scene.namespace)))["items"]
    return {item["metadata"]["name"]: item for item in items}


async def _until_told(api: Api, scene: Scene, sessions: int) -> tuple[set[str], dict[str, int]]:
    """Wait until sixty are open, and all others have been told different places; answers both."""
    while True:
        items = await _items(api, scene)
        live = {name for name, item in items.items() if is_ready(item)}
        told = {name: place for name, item in items.items() if (place := _place(item)) is not None}
        if len(live) == ROOM and len(set(told.values())) == sessions - ROOM:
            return live, told
        await asyncio.sleep(1)


def _place(item: dict[str, Any]) -> int | None:
    parts = item.get("status", {}).get("resources", ())
    found = [_PLACE.fullmatch(part.get("message", "")) for part in parts if part["state"] == "Waiting"]
    return int(found[0][1]) if found and found[0] else None


def figures(line: Line, calls: Sequence[dict[str, Any]], broken: Collection[str]) -> list[Figure]:
    """All of them."""
    after = {percent: round(percentile(line.opened_after, percent), 2) for percent in (50, 99, 100)}
    return [
        Figure("all have been told after", round(line.told_in, 1), "s"),
        Figure("told a place that is not theirs", len(line.misplaced), "", bar=0),
        Figure("open before their turn, when room came", len(line.before_turn), "", bar=0),
        Figure("open among the first sixty, and not of these", len(line.overtook), ""),
        Figure("open after sixty were stopped, p50", after[50], "s"),
        Figure("open after sixty were stopped, p99", after[99], "s"),
        Figure("open after sixty were stopped, the last", after[100], "s"),
        Figure("processor time of all", round(line.cpu, 1), "s"),
        Figure("calls to EC2", len(calls), ""),
        Figure("calls to EC2, throttled", throttled(calls), ""),
        figure(list(broken)),
    ]


def main() -> int:
    """Parse the arguments and run; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.waiting", description=__doc__)
    parser.add_argument("--sessions", type=int, default=1000, help="how many there are (default: 1000)")
    given = parser.parse_args()
    console = Console()
    with console.status("sessions in a line"), Sandbox(audit=False) as sandbox, observed(sandbox) as observer:
        scene = build(sandbox, "waiting", "eu-central-1", 1, verified=True)
        last = sandbox.ec2.last()
        line = asyncio.run(stand_in_line(sandbox, scene, given.sessions))
        calls, broken = sandbox.ec2.log(last), breaches(observer)
    taken = figures(line, calls, broken)
    told = {"figures": [{**asdict(each), "passed": each.passed} for each in taken], **asdict(line), "breaches": broken}
    RESULTS.write_text(json.dumps(told, indent=1) + "\n")
    return conclude(f"{given.sessions} sessions on one group of {ROOM}", taken, broken, console)


if __name__ == "__main__":
    sys.exit(main())
