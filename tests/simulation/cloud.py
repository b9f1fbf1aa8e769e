"""Firewalls that fail in every way that EC2's do, and that know who did what to which rule."""

import asyncio
import bisect
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Protocol, TypeVar

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.plan import Write
from gatepass.core.ports import (
    Access,
    Gone,
    Granted,
    GrantOutcome,
    NewRule,
    RelabelOutcome,
    RevokeOutcome,
    Still,
    TargetFacts,
    Unknown,
)
from gatepass.core.rules import ObservedRule, Rule, Stamp, Target
from gatepass.providers.aws_pacing import ACTIONS, Pacing, ScarceError
from gatepass.providers.memory import MemoryFirewalls
from tests.simulation.weather import LAG_SECONDS, NEW_SECONDS, TIMEOUT_SECONDS, Fate, Weather, exchange

T = TypeVar("T")
M = TypeVar("M")

_CONTENDED_SECONDS = 3.0
_IN_PARTS = 0.1
KINDS: Mapping[str, Write] = {"grant": "grants", "revoke": "revokes", "relabel": "relabels", "tag": "retags"}
LOST = ProviderError(Failure.RETRY, "NoAnswer", "the answer was lost")
THROTTLED = ProviderError(Failure.RETRY, "RequestLimitExceeded", "AWS asks for fewer calls")
DENIED = ProviderError(Failure.FORBIDDEN, "UnauthorizedOperation", "access denied")
EXPIRED = ProviderError(Failure.FORBIDDEN, "ExpiredToken", "AWS does not accept the credentials")


class Witness(Protocol):
    """Whoever is told of each change of a rule, as it happens."""

    def rule_changed(
        self, target: Target, before: ObservedRule | None, after: ObservedRule | None, *, by_gatepass: bool
    ) -> None:
        """A rule came, went or was edited."""

    def called(self, verb: str) -> None:
        """Gatepass has called the cloud."""

    def acknowledged(self, rule_id: str) -> None:
        """The process that runs now has been told the id of a rule that it has made."""


@dataclass
class _Past:
    """What one rule looked like from when on."""

    since: list[float]
    looks: list[ObservedRule | None]

    def at(self, time: float) -> ObservedRule | None:
        index = bisect.bisect_right(self.since, time) - 1
        return self.looks[index] if index >= 0 else None


class Cloud:
    """The `Provider` port over `MemoryFirewalls`, through the weather."""

    def __init__(self, weather: Weather, witness: Witness) -> None:
        self.truth = MemoryFirewalls()
        self._weather = weather
        self._witness = witness
        self._targets: dict[str, Target] = {}
        self._past: dict[Target, dict[str, _Past]] = {}
        self._own_chance = Random(0)  # the weather's draws decide what the scripts that are kept once met
        self._paced = 0, Pacing()
        self.generation: Callable[[], int] = lambda: 0

    # what people and other tools do

    def create(self, group: str, limit: int) -> None:
        """A new group."""
        self._targets[group] = self.truth.create(group, limit=limit)
        self._past[self._targets[group]] = {}

    def delete_group(self, group: str) -> None:
        """The group goes, and its rules with it."""
        target = self._targets.pop(group, None)
        if target is not None:
            before = dict(self.truth.rules(target))
            self.truth.delete(target)
            self._tell(target, before, {}, by_gatepass=False)

    def limit(self, group: str, limit: int) -> None:
        """The quota is another one now."""
        if (target := self._targets.get(group)) is not None:
            self.truth._firewall(target).limit = limit

    def rules(self, group: str) -> Mapping[str, ObservedRule]:
        """What the group really holds; empty when it is gone."""
        target = self._targets.get(group)
        return {} if target is None else self.truth.rules(target)

    def exists(self, group: str) -> bool:
        """Is the group still there?"""
        return group in self._targets

    def by_hand(self, group: str, change: Callable[[MemoryFirewalls, Target], None]) -> None:
        """Somebody changes the group's rules."""
        if (target := self._targets.get(group)) is not None:
            self._watched(target, lambda: change(self.truth, target), by_gatepass=False)

    # what Gatepass does

    async def identify(self, access: Access) -> str:
        """The account."""
        return await self._read("identify", access, lambda: at_once(self.truth.identify(access)))

    async def inspect(self, access: Access, ids: Sequence[str]) -> Mapping[str, TargetFacts | ProviderError]:
        """The facts of each group."""
        return await self._read("inspect", access, lambda: at_once(self.truth.inspect(access, ids)))

    async def observe(self, access: Access, target: Target) -> Sequence[ObservedRule]:
        """Every rule; while reads lag, each as it was some time ago."""

        def look() -> list[ObservedRule]:
            return self._seen(target, at_once(self.truth.observe(access, target)))

        return await self._read("observe", access, look)

    def _seen(self, target: Target, now: Sequence[ObservedRule]) -> list[ObservedRule]:
        if not self._weather.modes["lag"]:
            return list(now)
        moment = asyncio.get_running_loop().time()
        chance = self._weather.chance
        lagging = [past.at(moment - chance.uniform(0, LAG_SECONDS)) for past in self._past[target].values()]
        return [rule for rule in lagging if rule is not None]

    async def find(self, access: Access, owner: str | None) -> Sequence[tuple[Target, ObservedRule]]:
        """Every rule with the owner's tag; it lags as any other read."""

        def look() -> list[tuple[Target, ObservedRule]]:
            return [
                (target, rule)
                for target in self._targets.values()
                for rule in self._seen(target, list(self.truth.rules(target).values()))
                if rule.owner is not None and owner in (None, rule.owner)
            ]

        return await self._read("find", access, look)

    async def grant(
        self, access: Access, target: Target, rules: Sequence[NewRule], stamp: Stamp, still: Still
    ) -> Mapping[Rule, GrantOutcome]:
        """Put the rules."""
        generation = self.generation()
        outcomes: dict[Rule, GrantOutcome] = {}
        for part in self._parts(rules):
            asked = [new for new in part if still(new.rule)]
            put = partial(self.truth.grant, access, target, asked, stamp)
            told = await self._write("grant", access, target, [new.rule for new in asked], put)
            outcomes |= told
            if _breaks_off(told, asked):
                break
        for outcome in outcomes.values():
            if isinstance(outcome, Granted) and generation == self.generation():
                self._witness.acknowledged(outcome.id)
        return outcomes

    def _parts(self, members: Sequence[M]) -> Sequence[Sequence[M]]:
        """As often as EC2 refuses some of them as a whole, it takes more than one call."""
        middle = len(members) // 2 if self._own_chance.random() < _IN_PARTS else 0
        return [part for part in (members[:middle], members[middle:]) if part]

    async def revoke(
        self, access: Access, target: Target, ids: Sequence[str], *, doubtful: bool = False
    ) -> Mapping[str, RevokeOutcome]:
        """Remove the rules."""

        async def remove(part: Sequence[str]) -> dict[str, RevokeOutcome]:
            known = [id_ for id_ in part if not self._is_unknown_yet(target, id_)]
            return {**dict.fromkeys(part, Gone()), **await self.truth.revoke(access, target, known)}

        outcomes: dict[str, RevokeOutcome] = {}
        for part in self._parts(ids):
            told = await self._write("revoke", access, target, part, partial(remove, part), doubtful=doubtful)
            outcomes |= told
            if Gone() in told.values():
                self._pacing().misled(asyncio.get_running_loop().time())
            if _breaks_off(told, part):
                break
        return outcomes

    async def relabel(
        self, access: Access, target: Target, descriptions: Mapping[str, str]
    ) -> Mapping[str, RelabelOutcome]:
        """Set descriptions."""

        async def update() -> dict[str, RelabelOutcome]:
            known = {id_: text for id_, text in descriptions.items() if not self._is_unknown_yet(target, id_)}
            return {**dict.fromkeys(descriptions, Gone()), **await self.truth.relabel(access, target, known)}

        outcomes: Mapping[str, Any] = await self._write("relabel", access, target, list(descriptions), update)
        return {id_: LOST if isinstance(outcome, Unknown) else outcome for id_, outcome in outcomes.items()}

    async def tag(self, access: Access, target: Target, ids: Sequence[str], owner: str) -> Collection[str]:
        """Put the owner's tag."""

        async def put() -> dict[str, Any]:
            await self.truth.tag(access, target, ids, owner)
            return dict.fromkeys(ids)

        outcomes = await self._write("tag", access, target, ids, put)
        for outcome in outcomes.values():
            if outcome is not None:
                raise outcome if isinstance(outcome, ProviderError) else LOST
        return outcomes.keys()

    def _is_unknown_yet(self, target: Target, id_: str) -> bool:
        """While EC2 lags, some calls find nothing under an id that has just been given."""
        past = self._past[target].get(id_)
        if past is None or not self._weather.modes["lag"]:
            return False
        return asyncio.get_running_loop().time() < past.since[0] + NEW_SECONDS and self._own_chance.random() < 0.5

    def reserve(self, target: Target, kinds: Collection[Write], *, doubtful: bool = False) -> Mapping[Write, float]:
        """By the buckets that the operator keeps; while calls are scarce, others take nearly all that AWS allows."""
        pacing = self._pacing()
        for kind in kinds:
            self._contend(pacing, kind)
        return pacing.reserve_all(target, kinds, asyncio.get_running_loop().time(), doubtful=doubtful)

    def _pacing(self) -> Pacing:
        """Of the process that runs now."""
        if self._paced[0] != self.generation():
            self._paced = self.generation(), Pacing()
        return self._paced[1]

    def _contend(self, pacing: Pacing, kind: Write) -> None:
        if not self._weather.modes["throttle"]:
            return
        bucket, now = pacing.bucket(ACTIONS[kind]), asyncio.get_running_loop().time()
        ahead = self._own_chance.uniform(-_CONTENDED_SECONDS, _CONTENDED_SECONDS) * bucket.rate
        while ahead > 0 and bucket.tokens(now) > -ahead:
            bucket.take(now)

    def delay(self, target: Target) -> float:
        """Calls are always plenty."""
        return self.truth.delay(target)

    def closing_delay(self, target: Target) -> float:
        """As the firewalls have it."""
        return self.truth.closing_delay(target)

    def patience(self, target: Target) -> float:
        """Nobody waits."""
        return self.truth.patience(target)

    # on the way

    def _fate(self, access: Access, verb: str, *, write: bool) -> tuple[Fate, Exception]:
        modes, draw = self._weather.modes, self._weather.draw
        if modes["expired"]:
            return Fate.REFUSED, EXPIRED
        if modes["denied"] and write:
            return Fate.REFUSED, DENIED
        if modes["denied-reads"] and verb == "observe":
            return Fate.REFUSED, DENIED
        if (modes["denied-key"] or modes[f"denied-key-{verb}"]) and access.credentials.secret is not None:
            return Fate.REFUSED, DENIED
        weights: dict[Fate, float] = {}
        if modes["throttle"]:
            weights[Fate.REFUSED] = 0.7
        if modes["lossy"]:
            weights |= {Fate.LOST_BEFORE: 0.25, Fate.LOST_AFTER: 0.35}
        if modes["down"]:
            weights |= {Fate.LOST_BEFORE: 0.7, Fate.LOST_AFTER: 0.3}
        return draw(weights), THROTTLED

    def _ways(self, fate: Fate) -> tuple[float, float]:
        slow = bool(self._weather.modes["slow"])
        there, back = self._weather.way(slow=slow), self._weather.way(slow=slow)
        if fate in (Fate.LOST_BEFORE, Fate.LOST_AFTER) and self._weather.chance.random() < 0.5:
            # The client has given up before the request takes effect.
            return self._weather.chance.uniform(0, TIMEOUT_SECONDS + 2), TIMEOUT_SECONDS
        return there, back

    async def _read(self, verb: str, access: Access, effect: Callable[[], T]) -> T:
        self._witness.called(verb)
        fate, refused = self._fate(access, verb, write=False)
        there, back = self._ways(fate)
        return await exchange(effect, there, back, fate, refused=refused, lost=LOST)

    async def _write(
        self,
        verb: str,
        access: Access,
        target: Target,
        members: Sequence[M],
        effect: Callable[[], Coroutine[Any, Any, Any]],
        *,
        doubtful: bool = False,
    ) -> Mapping[M, Any]:
        """Answers for each member, as a batch that is retried without the members that are wrong does."""
        if not members:
            return {}
        pacing, kind = self._pacing(), KINDS[verb]
        self._contend(pacing, kind)
        try:
            now = asyncio.get_running_loop().time()
            await asyncio.sleep(pacing.spend(target, ACTIONS[kind], now, doubtful=doubtful))
        except ScarceError:
            return {}
        self._witness.called(verb)
        fate, refused = self._fate(access, verb, write=True)
        there, back = self._ways(fate)

        def take_effect() -> Any:
            return self._watched(target, lambda: at_once(effect()), by_gatepass=True)

        try:
            return await exchange(take_effect, there, back, fate, refused=refused, lost=_LostError())
        except _LostError:
            return {member: Unknown() for member in members}
        except ProviderError as error:
            if error is THROTTLED:
                pacing.bucket(ACTIONS[kind]).drain(asyncio.get_running_loop().time())
            return dict.fromkeys(members, error)

    def _watched(self, target: Target, change: Callable[[], T], *, by_gatepass: bool) -> T:
        try:
            before = dict(self.truth.rules(target))
        except ProviderError:
            return change()
        result = change()
        self._tell(target, before, self.truth.rules(target), by_gatepass=by_gatepass)
        return result

    def _tell(
        self,
        target: Target,
        before: Mapping[str, ObservedRule],
        after: Mapping[str, ObservedRule],
        *,
        by_gatepass: bool,
    ) -> None:
        now = asyncio.get_running_loop().time()
        past = self._past[target]
        for id_ in [*before, *(id_ for id_ in after if id_ not in before)]:
            if (was := before.get(id_)) != (is_ := after.get(id_)):
                known = past.setdefault(id_, _Past([], []))
                known.since.append(now)
                known.looks.append(is_)
                self._witness.rule_changed(target, was, is_, by_gatepass=by_gatepass)
        for id_ in [id_ for id_, each in past.items() if each.looks[-1] is None and each.since[-1] < now - LAG_SECONDS]:
            del past[id_]


def _breaks_off(told: Mapping[Any, Any], asked: Sequence[Any]) -> bool:
    """Was the call not made, or refused for more than its members?"""
    return len(told) < len(asked) or any(isinstance(outcome, ProviderError) for outcome in told.values())


class _LostError(Exception):
    """Nobody knows whether it took effect."""


def at_once(call: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits."""
    try:
        call.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")
