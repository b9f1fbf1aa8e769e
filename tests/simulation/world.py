"""Runs a script: users, faults, one operator that is ended and started again, and the laws over all of it."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

import structlog

from gatepass.core.ports import ClusterError, GoneError
from gatepass.core.rules import Rule
from gatepass.core.types.common import format_time
from tests.simulation.apiserver import JOBS, NAMESPACES, RESOURCES, SESSIONS, ApiServer, Json, held
from tests.simulation.breaches import BreachError, where
from tests.simulation.broken import SABOTAGE
from tests.simulation.cloud import Cloud
from tests.simulation.inspection import AllLaws
from tests.simulation.laws import HEALED, LAG
from tests.simulation.loop import HotLoopError, VirtualLoop, close
from tests.simulation.pods import Pods, SimulatedFinder
from tests.simulation.process import BIG_BANG, LoopClock, Process
from tests.simulation.rest import ailments, writes
from tests.simulation.runners import Hearts
from tests.simulation.script import GROUPS, Script, Step
from tests.simulation.weather import Weather

_REFUSALS: Final = ("throttle", "denied", "expired")
_TURN: Final = 2.0
"""Until who is refused is tried again, when that has taken more than 20 minutes; before, half of it."""
_UNDER_WAY: Final = 12.0
"""Until a call fails that was under way when a fault ended, and is not answered."""
_INSPECTED_EVERY: Final = 600.0
_QUIET: Final = 800.0
"""A resync, and as long as reads lag: after that nothing has an excuse."""
_TRACED: Final = 4000


@dataclass(frozen=True)
class Outcome:
    """How a run went; `trace` are the last things that happened, when it was asked for."""

    breach: str | None
    law: str | None
    seconds: float
    turns: int
    calls: dict[str, int]
    writes: int
    trace: tuple[str, ...] = ()


def run(script: Script, *, trace: bool = False, sabotage: str | None = None) -> Outcome:
    """Run it to its end, or to the first breach; the same script comes to the same outcome."""
    loop = VirtualLoop(Random(f"order {script.seed}"))
    asyncio.set_event_loop(loop)
    world = World(loop, script, trace=trace, sabotage=sabotage)
    breach: BreachError | None = None
    loop.set_exception_handler(lambda _, context: world.broken_by(context))
    with world.hearing_the_log():
        try:
            loop.run_until_complete(world.play())
        except BreachError as error:
            breach = error
        except HotLoopError as error:
            breach = BreachError("hot loop", str(error))
        finally:
            close(loop)
    return Outcome(
        breach and str(breach),
        breach and breach.law,
        loop.time(),
        loop.turns,
        dict(world.laws.calls),
        world.server.writes,
        tuple(f"{at:12.5f} {' '.join(map(str, what))}" for at, what in world.trace),
    )


class World:
    """One cluster, one cloud, one operator."""

    def __init__(self, loop: VirtualLoop, script: Script, *, trace: bool, sabotage: str | None) -> None:
        self._loop = loop
        self._sabotage = sabotage
        self._script = script
        self._tracing = trace
        self.trace: deque[tuple[float, tuple[Any, ...]]] = deque(maxlen=_TRACED)
        self.weather = Weather(Random(f"weather {script.seed}"))
        self.server = ApiServer(LoopClock().now)
        self._broken: asyncio.Future[None] = loop.create_future()
        self.pods = Pods()
        self.pods.moved = self._pod_moved
        self.laws = AllLaws(BIG_BANG.timestamp(), self._break, self.pods)
        self.cloud = Cloud(self.weather, self)
        self.cloud.generation = lambda: self._generation
        self.laws.full = self._is_full
        self.hearts = Hearts(self.server, self.weather, self.laws.truth.located_at, self._note)
        self.laws.healthy = self.hearts.healthy
        self.laws.missed_from = self.hearts.missed_from
        self._limited_at: dict[str, float] = {}
        self.server.changed = self._object_changed
        self._process: Process | None = None
        self._generation = 0
        self._down = 0
        self._ending = False

    # the run

    async def play(self) -> None:
        """From the beginning to the end of everything; raises BreachError."""
        for group, limit in GROUPS.items():
            self.cloud.create(group, limit)
            self.laws.groups.add(group)
        for namespace in ("ci", "platform"):
            self.server.create(NAMESPACES, "", namespace)
            self.server.create("secrets", namespace, "key")
        self._start()
        for step in self._script.steps:
            self._loop.call_at(step.at, self._take, step)
        self._loop.call_later(_INSPECTED_EVERY, self._inspect)
        await self._for(self._script.seconds)
        self._note("--- faults end")
        self._ending = True
        await self._for(600.0)  # the last restart
        await self._until_calm()
        await self._for(_QUIET)
        self.laws.inspect(_QUIET)
        self._ask_how_it_is()
        self._delete_all(SESSIONS)
        await self._for(_QUIET)
        self._ask_how_it_is()
        before = writes(self.laws.calls)
        await self._for(_QUIET)
        if made := writes(self.laws.calls) - before:
            self._break(BreachError("does not come to rest", f"{made} calls to change groups"))
        self._delete_all(RESOURCES)
        await self._for(_QUIET)
        self.laws.rest()
        await self._for(0)

    async def _for(self, seconds: float) -> None:
        await asyncio.wait([self._broken], timeout=seconds)
        if self._broken.done():
            self._broken.result()

    async def _until_calm(self) -> None:
        while (left := self.laws.calm.since() - self._loop.time()) > 0:
            await self._for(min(left, 100.0))

    def _delete_all(self, plural: str) -> None:
        self._note("--- delete all", plural)
        for item in self.server.every(plural):
            self.server.delete(plural, item["metadata"]["namespace"], item["metadata"]["name"])

    def _ask_how_it_is(self) -> None:
        if self._process is not None:
            found = ailments(self._process.engine.insight.snapshot(), self.server.every(RESOURCES), self.laws.groups)
            if told := "; ".join(found):
                self._break(BreachError("is not well at rest", told))

    def _inspect(self) -> None:
        self.laws.inspect(_QUIET)
        self._loop.call_later(_INSPECTED_EVERY, self._inspect)

    def _break(self, breach: BreachError) -> None:
        self._note("BREACH", breach)
        if not self._broken.done():
            self._broken.set_exception(breach)

    def broken_by(self, context: dict[str, Any]) -> None:
        """A callback or a forgotten task has failed."""
        self._break(BreachError("defect", f"{context['message']} {where(context.get('exception'))}"))

    # what is told

    def _note(self, *what: object) -> None:
        if self._tracing:
            self.trace.append((self._loop.time(), what))

    @contextlib.contextmanager
    def hearing_the_log(self) -> Iterator[None]:
        """The product's log goes into the trace, and a defect that it survives is a breach."""

        def hear(_logger: object, level: str, event: Any) -> Any:
            self._note("log", event.get("event"), {key: value for key, value in event.items() if key != "event"})
            if level in ("error", "exception", "critical") and not self._broken.done():
                cause = event.get("exc_info")
                self._break(BreachError("defect", f"{event} {cause!r} {where(cause)}"))
            raise structlog.DropEvent

        before = structlog.get_config()
        structlog.configure(processors=[hear], cache_logger_on_first_use=False)
        try:
            yield
        finally:
            structlog.configure(**before)

    def _object_changed(self, plural: str, before: Json | None, after: Json | None) -> None:
        item = after or before or {}
        known = item["metadata"]
        self._note("object", plural, known["name"], known["resourceVersion"], "gone" if after is None else "")
        self.laws.object_changed(plural, before, after)

    def rule_changed(self, target: Any, before: Any, after: Any, *, by_gatepass: bool) -> None:
        """The cloud's witness."""
        self._note("rule", "gatepass" if by_gatepass else "others", target.id, before, "->", after)
        self.laws.rule_changed(target, before, after, by_gatepass=by_gatepass)

    def called(self, verb: str) -> None:
        """The cloud's witness."""
        self._note("call", verb)
        self.laws.called(verb)

    def acknowledged(self, rule_id: str) -> None:
        """The cloud's witness."""
        self.laws.acknowledged(rule_id)

    # the operator

    def _start(self) -> None:
        self._generation += 1
        self._note("--- operator starts")
        self._process = Process(
            self.server,
            self.cloud,
            self.weather,
            self.laws.process_told,
            self._note,
            self._listed,
            SimulatedFinder(self.pods, self.weather),
            self._script.look_seconds,
        )
        if self._sabotage is not None:
            SABOTAGE[self._sabotage][0](self._process.engine, self.cloud)
        self._process.start(self._ended_by_itself)

    def _ended_by_itself(self, error: BaseException | None) -> None:
        self._break(BreachError("defect", f"the process ended: {error!r}"))

    def _listed(self) -> None:
        self._note("--- operator has listed")
        if self._down:
            self._down -= 1
            self.laws.fault_ends("kill", 5.0 + LAG, 5.0)

    def _end(self, down: float) -> None:
        assert self._process is not None
        self._note("--- operator is killed")
        self._process.kill()
        self._process = None
        self.laws.process_ended()
        self._loop.call_later(down, self._start)

    # steps

    def _take(self, step: Step) -> None:
        self._note(">>>", step.verb, step.args)
        with contextlib.suppress(GoneError, ClusterError):
            getattr(self, "_" + step.verb.replace("-", "_"))(step.args)

    def _create_resource(self, args: Json) -> None:
        given = held() if args["held"] else {}
        self.server.create(RESOURCES, args["namespace"], args["name"], args["spec"], **given)

    def _edit_resource(self, args: Json) -> None:
        spec = dict(args["spec"])
        if groups := spec.pop("groups", None):
            now = self.server.get(RESOURCES, args["namespace"], args["name"])["spec"]["aws"]
            spec["aws"] = {**now, "securityGroups": groups}
        self.server.edit(RESOURCES, args["namespace"], args["name"], spec)

    def _delete_resource(self, args: Json) -> None:
        self.server.delete(RESOURCES, args["namespace"], args["name"])

    def _create_session(self, args: Json) -> None:
        made = self.server.create(SESSIONS, "ci", args["name"], args["spec"], **(held() if args["held"] else {}))
        if "heartbeat" in args["spec"]:
            self.hearts.begin(made)

    def _create_job(self, args: Json) -> None:
        self.server.create(JOBS, "ci", args["name"], {})

    def _finish_job(self, args: Json) -> None:
        self.server.edit(JOBS, "ci", args["name"], {"finished": True})

    def _delete_job(self, args: Json) -> None:
        self.server.delete(JOBS, "ci", args["name"])

    def _kill_runner(self, args: Json) -> None:
        self.hearts.kill(args["name"])

    def _edit_session(self, args: Json) -> None:
        self.server.edit(SESSIONS, "ci", args["name"], args["spec"])

    def _not_after(self, args: Json) -> None:
        moment = format_time(
            BIG_BANG.fromtimestamp(BIG_BANG.timestamp() + self._loop.time() + args["in"], BIG_BANG.tzinfo)
        )
        self.server.edit(SESSIONS, "ci", args["name"], {"notAfter": moment})

    def _delete_session(self, args: Json) -> None:
        self.server.delete(SESSIONS, "ci", args["name"])

    def _move_pod(self, args: Json) -> None:
        self.pods.move(args["name"], *args["to"])

    def _pod_moved(self, name: str) -> None:
        process = self._process
        if process is not None:
            self._loop.call_later(
                self.weather.way(slow=bool(self.weather.modes["events-late"])), process.pod_moved, name
            )

    def _yank_session(self, args: Json) -> None:
        self.server.yank(SESSIONS, "ci", args["name"])

    def _put_rule(self, args: Json) -> None:
        rule = Rule(args["cidr"], "tcp", args["port"], args["port"])
        if not any(held.rule == rule for held in self.cloud.rules(args["group"]).values()):
            self.cloud.by_hand(args["group"], lambda truth, target: truth.put(target, rule, "by hand"))

    def _take_rule(self, args: Json) -> None:
        rule = Rule(args["cidr"], "tcp", args["port"], args["port"])
        for id_, found in list(self.cloud.rules(args["group"]).items()):
            if found.rule == rule and found.description == "by hand":
                self.cloud.by_hand(args["group"], lambda truth, target, id_=id_: truth.rules(target).pop(id_))

    def _ours(self, args: Json) -> str | None:
        ours = [id_ for id_, rule in self.cloud.rules(args["group"]).items() if rule.description != "by hand"]
        return ours[args["nth"] % len(ours)] if ours else None

    def _remove_ours(self, args: Json) -> None:
        if (id_ := self._ours(args)) is not None:
            self.cloud.by_hand(args["group"], lambda truth, target: truth.rules(target).pop(id_))

    def _unmark(self, args: Json) -> None:
        if (id_ := self._ours(args)) is None:
            return
        gone: Json = {"owner": {"owner": None}, "description": {"description": "mine"}}
        marks = gone.get(args["what"]) or {"owner": None, "description": "mine"}

        def edit(truth: Any, target: Any) -> None:
            truth.rules(target)[id_] = replace(truth.rules(target)[id_], **marks)

        self.cloud.by_hand(args["group"], edit)

    def _limit(self, args: Json) -> None:
        self.cloud.limit(args["group"], args["limit"])
        self._limited_at[args["group"]] = self._loop.time()

    def _is_full(self, group: str) -> bool:
        """Is there no room for a session of the largest kind, or has a resync yet to tell of it?"""
        if self._loop.time() - self._limited_at.get(group, -HEALED) < HEALED:
            return True
        used = len(self.cloud.rules(group))
        limit = self.cloud.truth._firewall(self.cloud._targets[group]).limit if self.cloud.exists(group) else 0
        return used + 8 > limit

    def _delete_group(self, args: Json) -> None:
        self.laws.groups.discard(args["group"])
        self.cloud.delete_group(args["group"])

    def _fault(self, args: Json) -> None:
        if self._ending:
            return
        mode, seconds = args["mode"], args["seconds"]
        kind = "lag" if mode == "lag" else "cloud"
        self.weather.modes[mode] += 1
        self.laws.fault_begins(kind)
        self._loop.call_later(seconds, self._fault_ends, mode, kind)

    def _fault_ends(self, mode: str, kind: str) -> None:
        self._note("--- fault ends", mode)
        self.weather.modes[mode] -= 1
        pause = _TURN if mode.startswith(_REFUSALS) else _UNDER_WAY
        self.laws.fault_ends(kind, pause + LAG, 5.0 if mode == "lag" else pause)

    def _break_watch(self, args: Json) -> None:
        if self._ending or self._process is None:
            return
        self.laws.fault_begins("watch")
        process, plural = self._process, args["plural"]
        process.break_watch(plural)
        self._loop.call_later(args["seconds"], self._mend_watch, process, plural)

    def _mend_watch(self, process: Process, plural: str) -> None:
        self._note("--- watch mended", plural)
        process.mend_watch(plural)
        self.laws.fault_ends("watch", 605.0, 605.0)

    def _kill(self, args: Json) -> None:
        if self._ending or self._process is None or self._down:
            return
        self._down += 1
        self.laws.fault_begins("kill")
        self._loop.after_turns(args["turns"], lambda: self._end(args["down"]))
