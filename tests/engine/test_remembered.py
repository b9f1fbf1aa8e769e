"""What became of calls is told while they are needed, to whom it concerns, and decides who is asked how often."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.types.session import AccessSession, Phase
from gatepass.engine.engine import Engine
from tests.engine.test_in_turn import REFUSED, Selective
from tests.engine.test_scarcity import secret, several
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

_TOO_MANY = 20
THROTTLED = ProviderError(Failure.RETRY, "RequestLimitExceeded", "fewer")


@pytest.fixture
def cloud() -> Selective:
    return Selective()


def well(world: World, engine: Engine, name: str) -> bool:
    """Is the resource Ready, and no target failing?"""
    return world.ready(name) == "True" and not engine.insight.snapshot().targets[0].failing


async def is_refused_and_stopped(world: World) -> None:
    """A session of `a` is told that it is refused, and a minute has passed since somebody has stopped it."""
    first = world.session("first", cidrs=("198.51.100.9/32",), resources=({"name": "a"},))
    await eventually(lambda: world.status(first).phase is Phase.FAILED, "it is refused", 20)
    world.edit(AccessSession, first.key, stop=True)
    await asyncio.sleep(60)


async def opens_and_never_fails(world: World, cloud: Selective, *, scarce: bool) -> None:
    """A new session of `a`, although its call is answered late, and something makes it look meanwhile."""
    cloud.slow_answer = 2.0
    with cloud.contended("grants", 4.0 if scarce else 0.0):
        await asyncio.sleep(1)
        later = world.session("later", cidrs=("203.0.113.8/32",), resources=({"name": "a"},))
        await asyncio.sleep(0.5)
        world.edit(AccessSession, later.key, {"anything": "new"})
        await throughout(lambda: world.status(later).phase is not Phase.FAILED, "it does not fail", 10)
    assert world.status(later).phase is Phase.ACTIVE


@pytest.mark.parametrize("call", ["identify", "inspect", "observe"])
async def test_who_cannot_be_served_for_a_wrong_request_is_told(world: World, cloud: Selective, call: str) -> None:
    group = cloud.create("sg-0aaa")

    async def refuse(*_: object) -> None:
        raise ProviderError(Failure.TERMINAL, "InvalidRequest", "sts:AssumeRole: not an ARN")

    setattr(cloud, call, refuse)
    async with world.running():
        secret(world, "a", group)
        session = world.session(resources=({"name": "a"},))
        await eventually(lambda: world.status(session).phase is Phase.FAILED, "its failing is told", 60)


@pytest.mark.parametrize("scarce", [True, False])
async def test_a_refusal_of_yesterday_is_nobodys_today(world: World, cloud: Selective, scarce: bool) -> None:
    """Until the new call is answered."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=600):
        await several(world, group, "a")
        cloud.refuses["a", "grants"] = REFUSED
        await is_refused_and_stopped(world)
        cloud.refuses.clear()
        await asyncio.sleep(3600)
        await opens_and_never_fails(world, cloud, scarce=scarce)


@pytest.mark.parametrize("scarce", [True, False])
async def test_a_refusal_of_yesterday_is_nobodys_today_also_while_others_are_refused(
    world: World, cloud: Selective, scarce: bool
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=36000):
        await several(world, group, "ab")
        cloud.refuses = {(name, "grants"): REFUSED for name in "ab"}
        world.session("parked", cidrs=("203.0.113.77/32",), resources=({"name": "b"},), duration="10h")
        await asyncio.sleep(5)
        await is_refused_and_stopped(world)
        del cloud.refuses["a", "grants"]
        await asyncio.sleep(3600)
        await opens_and_never_fails(world, cloud, scarce=scarce)


async def test_who_wants_nothing_any_more_is_well_while_others_are_refused(world: World, cloud: Selective) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=600) as engine:
        await several(world, group, "ab")
        cloud.refuses["b", "grants"] = REFUSED
        world.session("parked", cidrs=("203.0.113.77/32",), resources=({"name": "b"},), duration="10h")
        await asyncio.sleep(100)
        cloud.refuses["a", "grants"] = THROTTLED
        session = world.session(resources=({"name": "a"},))
        await eventually(lambda: world.ready("a") == "False", "it is told", 20)
        world.edit(AccessSession, session.key, stop=True)
        del cloud.refuses["a", "grants"]
        await eventually(lambda: world.ready("a") == "True", "it is over", 10)
        assert engine.insight.snapshot().targets[0].failing, "for the others it is not"


async def test_who_was_refused_yesterday_puts_what_others_cannot(world: World, cloud: Selective) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=600):
        await several(world, group, "ab")
        cloud.refuses["a", "grants"] = REFUSED
        await is_refused_and_stopped(world)
        cloud.refuses.clear()
        await asyncio.sleep(3600)
        cloud.refuses["b", "grants"] = THROTTLED
        world.session("b", cidrs=("203.0.113.8/32",), resources=({"name": "b"},))
        await asyncio.sleep(5)
        session = world.session("a", cidrs=("203.0.113.8/32",), resources=({"name": "a"},))
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it opens", 30)


@pytest.mark.parametrize("pause", [1, 60, 400])
async def test_scarcity_is_told_once_more_when_others_have_made_the_calls_before(
    world: World, cloud: Selective, pause: float
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=36000):
        await several(world, group, "ab")
        one, two = (
            world.session(f"s{number}", cidrs=(f"198.51.100.{number}/32",), resources=({"name": "b"},), duration="10h")
            for number in range(2)
        )
        await asyncio.sleep(150)
        with cloud.contended("revokes", 3.0):
            await asyncio.sleep(1)
            world.edit(AccessSession, one.key, stop=True)
            await eventually(lambda: world.status(one).phase is Phase.CANCELLED, "it closes", 20)
        await asyncio.sleep(pause)
        with cloud.contended("revokes", 60.0):
            await asyncio.sleep(1)
            world.edit(AccessSession, two.key, stop=True)
            await eventually(lambda: world.status(two).resources[0].reason == "CallsAreScarce", "it is told", 20)


async def test_who_failed_once_and_is_not_asked_again_is_well(world: World, cloud: Selective) -> None:
    """Others close ever since, as they were let in last time."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=3600) as engine:
        await several(world, group, "ab")
        one = world.session("one", resources=({"name": "b"},))
        await asyncio.sleep(150)
        cloud.refuses["a", "revokes"] = THROTTLED
        world.edit(AccessSession, one.key, stop=True)
        await eventually(lambda: not cloud.rules(group), "it closes", 10)
        cloud.refuses.clear()
        await asyncio.sleep(7300)
        other = world.session("other", resources=({"name": "b"},))
        await asyncio.sleep(60)
        world.edit(AccessSession, other.key, stop=True)
        for _ in range(100):
            await asyncio.sleep(1)
            assert well(world, engine, "a")


async def test_when_one_has_closed_what_all_were_refused_all_are_well(world: World, cloud: Selective) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=36000) as engine:
        await several(world, group, "ab")
        await asyncio.sleep(130)
        session = world.session(resources=({"name": "a"},))
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it opens", 5)
        cloud.refuses = {(name, "revokes"): REFUSED for name in "ab"}
        world.edit(AccessSession, session.key, stop=True)
        await eventually(lambda: not well(world, engine, "a") and not well(world, engine, "b"), "it is told", 20)
        cloud.refuses.clear()
        await eventually(lambda: world.status(session).phase is Phase.CANCELLED, "it closes", 10)
        await eventually(lambda: well(world, engine, "a") and well(world, engine, "b"), "all are well", 10)


async def test_a_rule_of_two_is_not_put_with_credentials_that_may_not(world: World, cloud: Selective) -> None:
    """That the others were throttled once is over in a moment."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=36000):
        await several(world, group, "ab")
        cloud.refuses["b", "grants"] = REFUSED
        first = world.session("first", cidrs=("198.51.100.9/32",), resources=({"name": "b"},))
        await eventually(lambda: world.status(first).phase is Phase.FAILED, "b is refused", 20)
        await asyncio.sleep(60)
        cloud.refuses["a", "grants"] = THROTTLED
        both = [world.session(name, cidrs=("203.0.113.8/32",), resources=({"name": name},)) for name in "ab"]
        await asyncio.sleep(0.2)
        del cloud.refuses["a", "grants"]
        await throughout(lambda: world.status(both[0]).phase is not Phase.FAILED, "it does not fail", 10)
        assert world.status(both[0]).phase is Phase.ACTIVE


@pytest.mark.parametrize("names", ["ab", "ba"])
async def test_nobody_is_told_what_others_are_refused_who_want_the_same(
    world: World, cloud: Selective, names: str
) -> None:
    """Not even for a moment: who waits for Settled would give up."""
    group, put, told = cloud.create("sg-0aaa"), world.cluster.put, set[tuple[str, Phase | None]]()

    def noted(changed: Any, **metadata: Any) -> Any:
        if isinstance(after := put(changed, **metadata), AccessSession):
            told.add((after.metadata.name, after.status.phase))
        return after

    async with world.running(resync=36000):
        await several(world, group, "ab")
        await asyncio.sleep(150)
        cloud.refuses["a", "grants"] = REFUSED
        world.cluster.put = noted  # type: ignore[method-assign]
        both = {name: world.session(name, cidrs=("203.0.113.8/32",), resources=({"name": name},)) for name in names}
        await eventually(lambda: all(world.status(each).phase is Phase.ACTIVE for each in both.values()), "both", 30)
    assert ("b", Phase.FAILED) not in told


def opens(world: World, name: str, number: int) -> None:
    world.session(f"s{name}{number}", cidrs=(f"198.51.100.{number}/32",), resources=({"name": name},))


@pytest.mark.parametrize("names", ["a", "ab", "abc"])
async def test_several_who_fail_are_asked_as_rarely_as_one(world: World, cloud: Selective, names: str) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=36000):
        await several(world, group, names)
        cloud.refuses = {(name, "grants"): THROTTLED for name in names}
        with cloud.contended("grants", 0.3):
            await asyncio.sleep(1)
            for number, name in enumerate(names):
                opens(world, name, number)
            await asyncio.sleep(60)
            asked = asyncio.get_running_loop().time()
            await asyncio.sleep(300)
        assert 0 < cloud.sent_since("grants", asked) <= 6 * len(names)


async def test_while_nobody_can_close_it_is_looked_whether_somebody_has(world: World, cloud: Selective) -> None:
    group, observe, looks = cloud.create("sg-0aaa"), cloud.observe, []
    async with world.running(resync=36000):
        await several(world, group, "ab")
        session = world.session(resources=({"name": "b"},))
        await asyncio.sleep(150)
        cloud.refuses = {(name, "revokes"): THROTTLED for name in "ab"}

        async def counted(*arguments: object) -> object:
            looks.append(arguments)
            return await observe(*arguments)  # type: ignore[arg-type]

        cloud.observe = counted  # type: ignore[method-assign, assignment]
        with cloud.contended("revokes", 0.15):
            world.edit(AccessSession, session.key, stop=True)
            await asyncio.sleep(100)
            assert looks
            cloud.rules(group).clear()
            await eventually(lambda: world.status(session).phase is Phase.CANCELLED, "it is seen", 130)


async def test_a_rule_that_is_gone_is_gone_also_while_nobody_may_read(world: World, cloud: Selective) -> None:
    """It was put so long ago that EC2 knows its id everywhere."""
    groups = [cloud.create(f"sg-{number:04}") for number in range(6)]
    async with world.running(resync=600):
        for group in groups:
            secret(world, group.id, group, "a")
        await asyncio.sleep(130)  # until the last look of the start is over
        sessions = [world.session(group.id, resources=({"name": group.id},)) for group in groups]
        await asyncio.sleep(300)
        cloud.sealed = {group.id for group in groups}
        for group in groups:
            cloud.rules(group).clear()
        await asyncio.sleep(60)
        for each in sessions:
            world.edit(AccessSession, each.key, stop=True)
        await eventually(lambda: all(world.status(each).phase is Phase.CANCELLED for each in sessions), "all end", 30)
        asked = asyncio.get_running_loop().time()
        await asyncio.sleep(60)
        assert not cloud.sent_since("revokes", asked)


def counting(engine: Engine) -> Counter[tuple[float, object]]:
    """Passes from now on, by key and moment; what is begun a tick too early is begun again without end."""
    made: Counter[tuple[float, object]] = Counter()
    for queue in (engine._reconciler.queue, engine._sessions.queue):

        async def counted(key: Any, handle: Callable[[Any], Awaitable[None]] = queue._handle) -> None:
            moment = round(asyncio.get_running_loop().time(), 4), key
            made[moment] += 1
            if made[moment] <= _TOO_MANY:
                await handle(key)

        queue._handle = counted
    return made


async def test_refused_claims_are_tried_again_at_their_time_and_not_a_tick_before(
    world: World, cloud: Selective
) -> None:
    group = cloud.create("sg-0aaa")
    cloud.refuses["a", "grants"] = REFUSED
    async with world.running(resync=36000) as engine:
        await several(world, group, "a")
        made = counting(engine)
        for number in range(20):
            await asyncio.sleep(0.1234567 * number)
            opens(world, "a", number)
        await asyncio.sleep(350)
        assert max(made.values()) < _TOO_MANY


async def test_who_waits_tells_his_place_at_its_time_and_not_a_tick_before(world: World, cloud: Selective) -> None:
    group = cloud.create("sg-0aaa", limit=1)
    async with world.running(resync=36000) as engine:
        await several(world, group, "a")
        made = counting(engine)
        for number in range(20):
            await asyncio.sleep(0.1234567 * number)
            opens(world, "a", number)
        await asyncio.sleep(350)
        assert max(made.values()) < _TOO_MANY
