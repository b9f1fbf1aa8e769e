"""`python -m bench.size`: ten thousand live sessions: memory, idle, restart, takeover; written to bench/size.json.

Statuses and rules are those that Gatepass has written itself. 1 is the exit code for a missed bar.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import load, takeover
from bench.figures import Figure, conclude
from bench.observed import breaches, figure, observed
from bench.processes import Memory, cpu_seconds, memory, quiet_since
from bench.records import READS, AuditLog, by_action, by_kind, groups_read, mutating
from bench.scene import ACCOUNT, Scene, admin, build
from gatepass.sandbox.environment import Sandbox
from gatepass.sandbox.processes import Process

RESULTS = Path(__file__).with_name("size.json")
REGION = "eu-central-1"
PER_GROUP, NAMESPACES, WRITERS_EACH = 50, 10, 2
"""Several namespaces: what admission has to look at grows with the resources of one, and is not what is measured."""
MORE_MIB = 80.0
READY_SECONDS, PATIENCE_SECONDS = 60.0, 900.0
QUIET_SECONDS, IDLE_SECONDS = 2.0, 30.0
IDLE_FROM = 60.0
"""Seconds after the start: between the looks at everything that come after 25 s and after 121 s."""
LOOK_FROM, LOOK_UNTIL = 119.0, 140.0
"""The second of these two looks: seconds after the start."""


@dataclass(frozen=True)
class Restart:
    """From the start of the process until it is quiet, and what it did until then."""

    seconds: float
    cpu: float
    listing: float
    describing: float
    calls: dict[str, int]
    ec2: dict[str, int]
    ec2_writes: int
    api_writes: dict[str, int]

    @property
    def ratio(self) -> float:
        """To the floor."""
        return self.seconds / (self.listing + self.describing)


class Bench:
    """One sandbox, and beside it the operator as the chart runs it by default: without the REST API."""

    def __init__(self, sandbox: Sandbox, sessions: int, say: Callable[[str], None]) -> None:
        self._sandbox = sandbox
        self._sessions = sessions
        self._say = say
        self._groups: set[str] = set()
        self._scenes: list[Scene] = []
        command = [sys.executable, "-m", "gatepass", "operator", "--kubeconfig", str(sandbox.operator_kubeconfig)]
        # The image has its bytecode; without it, a second of each start would be the compiler's.
        env = {name: value for name, value in sandbox.env.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self.operator = Process("operator", command, sandbox.directory / "operator.log", env)
        self.standby = takeover.Standby(sandbox, command, env)

    @property
    def pid(self) -> int:
        """The operator's process id."""
        return _pid(self.operator)

    def open(self) -> float:
        """Have every session opened by Gatepass; seconds from the first create to the last Ready."""
        self.operator.start()
        self.operator.wait_ready(self._sandbox.operator_ready, READY_SECONDS)
        groups = self._sessions // PER_GROUP // NAMESPACES
        self._scenes = scenes = [
            replace(build(self._sandbox, f"size-{number}", REGION, groups, verified=True), ends={"duration": "24h"})
            for number in range(NAMESPACES)
        ]
        self._groups = {group for scene in scenes for group in scene.groups}
        openings = asyncio.run(self._create(scenes))
        self._say("waiting until everything is written")
        self._until_nothing_is_written()
        return load.lasted(openings)

    async def _create(self, scenes: list[Scene]) -> list[load.Opening]:
        created = 0

        def tell(_number: int) -> None:
            nonlocal created
            created += 1
            if created % 100 == 0:
                self._say(f"{created} of {self._sessions} sessions created")
            if created == self._sessions:
                self._say("waiting for the last sessions to be open")

        async with admin(self._sandbox) as api:
            each = self._sessions // NAMESPACES
            work = (load.burst(api, scene, each, WRITERS_EACH, PATIENCE_SECONDS, tell) for scene in scenes)
            return [opening for openings in await asyncio.gather(*work) for opening in openings]

    def _until_nothing_is_written(self) -> None:
        """But for Events, which are written long after, and dropped when the operator ends."""
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            audit = AuditLog(self._sandbox.control_plane.audit_log)
            time.sleep(QUIET_SECONDS)
            if not set(by_kind(audit.writes_by(ACCOUNT))) - {"events"}:
                return
        raise TimeoutError("the operator does not come to rest")

    def restart(self) -> Restart:
        """Start the operator anew, and then do the same bare."""
        self.operator.stop(READY_SECONDS)
        last = self._sandbox.ec2.last()
        audit = AuditLog(self._sandbox.control_plane.audit_log)
        started = time.monotonic()
        self.operator.start()
        self.operator.wait_ready(self._sandbox.operator_ready, READY_SECONDS)
        seconds = self._steady_since(last) - started
        cpu = cpu_seconds(self.pid)
        calls = self._sandbox.ec2.log(last)
        bare = self._relisted([call for call in calls if call["action"].startswith(READS) and call["service"] == "ec2"])
        return Restart(
            seconds,
            cpu,
            bare["list"],
            bare["describes"],
            dict(Counter(call["service"] for call in calls)),
            by_action(calls),
            mutating(calls),
            by_kind(audit.writes_by(ACCOUNT)),
        )

    def _steady_since(self, last: int) -> float:
        """The monotonic second since which it is quiet and has read every group after call `last`.

        Quiet alone is not steady: so is a process that waits for a busy machine.
        """
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            since = quiet_since(self.pid, QUIET_SECONDS, PATIENCE_SECONDS)
            if self._groups <= groups_read(self._sandbox.ec2.log(last)):
                return since
            time.sleep(QUIET_SECONDS / 10)
        raise TimeoutError("the operator does not read every group")

    def _relisted(self, calls: list[dict[str, Any]]) -> Mapping[str, float]:
        file = self._sandbox.directory / "describes.json"
        file.write_text(json.dumps(calls))
        program = Path(__file__).with_name("relist.py")
        env = {**self._sandbox.env, "KUBECONFIG": str(self._sandbox.operator_kubeconfig)}
        command = [sys.executable, str(program), str(file)]
        found: Mapping[str, float] = json.loads(subprocess.check_output(command, env=env))  # noqa: S603  our own program
        return found

    def bare_memory(self) -> Memory:
        """Of the bare kopf operator, once it has seen every object."""
        seen = self._sandbox.directory / "seen"
        seen.write_text("0")
        program = Path(__file__).with_name("bare.py")
        env = {**self._sandbox.env, "KUBECONFIG": str(self._sandbox.operator_kubeconfig)}
        bare = Process("bare", [sys.executable, str(program), str(seen)], self._sandbox.directory / "bare.log", env)
        bare.start()
        try:
            bare.wait_ready(lambda: int(seen.read_text() or 0) >= self._sessions, PATIENCE_SECONDS)
            time.sleep(3 * QUIET_SECONDS)  # kopf ends an object's task when it has been idle for 5 s
            quiet_since(_pid(bare), QUIET_SECONDS, PATIENCE_SECONDS)
            return memory(_pid(bare))
        finally:
            bare.stop()

    def idle(self) -> dict[str, Any]:
        """A process that has only been started: half a minute of it with nothing to do, then a look at everything."""
        self.operator.stop(READY_SECONDS)
        self.operator.start()
        started, last = time.monotonic(), self._sandbox.ec2.last()
        self.operator.wait_ready(self._sandbox.operator_ready, READY_SECONDS)
        self._steady_since(last)
        _sleep_until(started + IDLE_FROM)
        found = memory(self.pid)
        last, audit = self._sandbox.ec2.last(), AuditLog(self._sandbox.control_plane.audit_log)
        before = cpu_seconds(self.pid)
        time.sleep(IDLE_SECONDS)
        used = cpu_seconds(self.pid) - before
        calls, writes = self._sandbox.ec2.log(last), audit.writes_by(ACCOUNT)
        self._say("waiting for the look at everything that comes two minutes after the start")
        _sleep_until(started + LOOK_FROM)
        before = cpu_seconds(self.pid)
        _sleep_until(started + LOOK_UNTIL)
        quiet_since(self.pid, QUIET_SECONDS, PATIENCE_SECONDS)
        return {
            "memory": found,
            "memory_after_a_look": memory(self.pid),
            "core_percent": round(100 * used / IDLE_SECONDS, 2),
            "ec2_calls": by_action(calls),
            "ec2_writes": mutating(calls),
            "api_writes": by_kind(writes),
            "look_cpu": round(cpu_seconds(self.pid) - before, 2),
        }

    def takeovers(self) -> list[Figure]:
        """The leader ends in order, and once more, with the roles changed, it dies."""
        self.standby.start()
        told = self._takeover(self.operator.terminate)
        self.operator.reap()
        self.operator.start()
        self.operator.wait_ready(self._sandbox.operator_ready, READY_SECONDS)
        self._until_nothing_is_written()
        return takeover.figures(told, self._takeover(self.standby.process.kill))

    def _takeover(self, end: Callable[[], None]) -> float:
        scene = self._scenes.pop()
        session = scene.session(self._sessions // NAMESPACES)
        return takeover.takeover(self._sandbox, end, scene.namespace, session)


def _pid(process: Process) -> int:
    if process.pid is None:
        raise RuntimeError(f"{process.name} has ended: see {process.log}")
    return process.pid


def _sleep_until(moment: float) -> None:
    time.sleep(max(moment - time.monotonic(), 0.0))


def figures(
    opened: float, grown: Memory, bare: Memory, idle: Mapping[str, Any], restarts: list[Restart]
) -> list[Figure]:
    """All of them."""
    ratio = statistics.median(each.ratio for each in restarts)
    floor = statistics.median(each.listing + each.describing for each in restarts)
    writes = max(each.ec2_writes + sum(each.api_writes.values()) for each in restarts)
    found: Memory = idle["memory"]
    return [
        Figure("opened by 20 writers: first create to last Ready", round(opened, 1), "s"),
        Figure(
            "memory above that of a bare kopf operator", round(found.resident - bare.resident, 1), "MiB", bar=MORE_MIB
        ),
        Figure(
            "the same of the process that has opened them all",
            round(grown.resident - bare.resident, 1),
            "MiB",
            bar=MORE_MIB,
        ),
        Figure("memory, resident", found.resident, "MiB", bare.resident),
        Figure("memory, the most there was", found.peak, "MiB", bare.peak),
        Figure("memory after another look at everything", idle["memory_after_a_look"].resident, "MiB", bare.resident),
        Figure("idle for 30 s: of one core", idle["core_percent"], "%", bar=3.0),
        Figure("idle: writes to EC2", idle["ec2_writes"], "", bar=0),
        Figure("idle: writes to the API server but for the Lease", sum(idle["api_writes"].values()), "", bar=0),
        Figure("one look at everything, as at each resync: processor time", idle["look_cpu"], "s"),
        Figure(
            "restart to steady, of list + parse + the same Describes",
            round(statistics.median(each.seconds for each in restarts), 2),
            "s",
            round(floor, 2),
            round(ratio, 2),
            1.5,
        ),
        Figure("restart: calls to AWS", max(sum(each.calls.values()) for each in restarts), ""),
        Figure("restart: processor time", round(statistics.median(each.cpu for each in restarts), 2), "s"),
        Figure("restart: writes to EC2 and the API server but for the Lease", writes, "", bar=0),
    ]


@contextmanager
def progress(console: Console) -> Iterator[Callable[[str], None]]:
    """A line that says what is done now; for a log, a line each."""
    with console.status("") as status:
        yield (lambda text: status.update(text)) if console.is_terminal else (lambda text: console.print(text))


def main() -> int:
    """Parse the arguments and run; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.size", description=__doc__)
    parser.add_argument(
        "--sessions",
        type=int,
        default=10_000,
        help="live sessions, 50 to a group, in thousands or halves (default: 10000)",
    )
    parser.add_argument("--restarts", type=int, default=3, help="how often to restart (default: 3)")
    given = parser.parse_args()
    console = Console()
    with (
        Sandbox(operator=False, audit=False) as sandbox,
        observed(sandbox) as observer,
        progress(console) as say,
    ):
        sandbox.ec2.set_throttles(on=False)
        bench = Bench(sandbox, given.sessions, say)
        try:
            say("starting the operator, and making the resources")
            opened = bench.open()
            grown = memory(bench.pid)
            restarts = []
            for number in range(1, given.restarts + 1):
                say(f"restart {number} of {given.restarts}")
                restarts.append(bench.restart())
                say(f"restart {number}: {restarts[-1].seconds:.1f} s, {restarts[-1].ratio:.2f} x the floor")
            say("the bare kopf operator")
            bench.operator.stop()
            bare = bench.bare_memory()
            say("a start, and then nothing")
            idle = bench.idle()
            say("a leader that ends, and one that dies")
            takeovers = bench.takeovers()
        finally:
            bench.standby.process.stop()
            bench.operator.stop()
        say("judging what the observer has written down")
        broken = breaches(observer)
    found = [*figures(opened, grown, bare, idle, restarts), *takeovers, figure(broken)]
    told = {
        "sessions": given.sessions,
        "groups": given.sessions // PER_GROUP,
        "figures": [{**asdict(each), "passed": each.passed} for each in found],
        "breaches": broken,
        "restarts": [asdict(each) for each in restarts],
        "idle": {**idle, "memory": asdict(idle["memory"]), "memory_after_a_look": asdict(idle["memory_after_a_look"])},
    }
    RESULTS.write_text(json.dumps(told, indent=1) + "\n")
    title = f"{given.sessions} live sessions in {given.sessions // PER_GROUP} groups"
    missed = conclude(title, found, broken, console)
    console.print(f"calls of a restart: {restarts[-1].calls}, to EC2: {restarts[-1].ec2}; details: {RESULTS}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
