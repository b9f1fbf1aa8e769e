"""A line that is older than the operator, or than an answer: who is not heard of for a while keeps his place."""

import asyncio
from typing import Any

import pytest

from gatepass.core.ports import ClusterError
from gatepass.core.rules import Rule
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import FINALIZER, REQUESTED_BY, Key, SourceKind
from gatepass.core.types.session import AccessSession, Phase, Requester
from tests.engine.finders import POD, THERE, ScriptedFinder, open_to
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


BOB = '{"username":"bob","uid":"2","groups":["ci"]}'
STAMPS = {"annotations": {REQUESTED_BY: BOB}, "finalizers": [FINALIZER]}
ONE = "203.0.113.1/32"


def phase(world: World, session: AccessSession) -> Phase | None:
    return world.status(session).phase


def answers(world: World, *bobs: bool | None, seconds: float) -> list[float]:
    """Reviews take so long for bob, and no time for alice; what bob is told, in turn.

    None is no answer, and alice is told yes. Gives the list of when bob was asked about.
    """
    left, asked = list(bobs), list[float]()

    async def may_use(requester: Requester, resource: Key) -> bool:
        if requester.username != "bob":
            return True
        asked.append(asyncio.get_running_loop().time())
        await asyncio.sleep(seconds)
        answer = left.pop(0) if len(left) > 1 else left[0]
        if answer is None:
            raise ClusterError("no answer")
        return answer

    world.cluster.may_use = may_use  # type: ignore[method-assign]
    return asked


def line(world: World, count: int) -> list[AccessSession]:
    """Bob's, with names in the opposite order."""
    return [world.session(f"s{999 - n}", metadata=STAMPS, cidrs=(f"203.0.113.{n}/32",)) for n in range(count)]


def first_come(world: World, sessions: list[AccessSession], open_: int) -> bool:
    phases = [phase(world, each) for each in sessions]
    return phases == [Phase.ACTIVE] * open_ + [Phase.PENDING] * (len(sessions) - open_)


@pytest.mark.parametrize(("limit", "policy"), [(1, {}), (60, {"maxConcurrentSessions": 1})])
async def test_the_oldest_opens_first_after_a_restart_though_it_is_asked_about_last(
    world: World, cloud: SlowFirewalls, limit: int, policy: dict[str, int]
) -> None:
    cloud.create("sg-0aaa", limit=limit)
    async with world.running():
        world.resource(policy=policy)
        sessions = line(world, 70)
        await eventually(lambda: first_come(world, sessions, 1), "one is open")
    answers(world, True, seconds=0.05)
    world.edit(AccessSession, sessions[0].key, stop=True)
    async with world.running():
        await eventually(lambda: phase(world, sessions[0]) is Phase.CANCELLED, "its end")
        await throughout(lambda: not any(phase(world, each) is Phase.ACTIVE for each in sessions[2:]), "the order", 5)
        assert first_come(world, sessions[1:], 1)
        places = [entry.message for each in sessions[2:] for entry in world.status(each).resources]
        assert [(text or "").partition(":")[0] for text in places] == [f"place {n}" for n in range(1, 69)]


async def in_line(world: World, **of_bob: Any) -> tuple[AccessSession, AccessSession, AccessSession]:
    """Somebody has the room that bob, and then alice, wait for."""
    world.resource()
    first = world.session("first")
    await eventually(lambda: phase(world, first) is Phase.ACTIVE, "it opens")
    bobs = world.session("z", metadata=STAMPS, **{"cidrs": ("203.0.113.100/32",), **of_bob})
    await eventually(lambda: phase(world, bobs) is Phase.PENDING, "bob waits")
    alices = world.session("a", cidrs=("203.0.113.101/32",))
    await eventually(lambda: phase(world, alices) is Phase.PENDING, "alice waits")
    return first, bobs, alices


async def bob_waits_before_alice(world: World, **of_bob: Any) -> tuple[AccessSession, AccessSession]:
    """Who has the room ends when nobody looks."""
    async with world.running():
        first, bobs, alices = await in_line(world, **of_bob)
    world.edit(AccessSession, first.key, stop=True)
    return bobs, alices


async def test_who_is_let_in_no_more_keeps_nobody_waiting(world: World, cloud: SlowFirewalls) -> None:
    """Not until it would have been given up."""
    cloud.create("sg-0aaa", limit=1)
    bobs, alices = await bob_waits_before_alice(world)
    answers(world, False, seconds=5.0)
    async with world.running():
        await throughout(lambda: phase(world, alices) is Phase.PENDING, "she waits", 4)
        await eventually(lambda: phase(world, bobs) is Phase.FAILED, "he is refused", 3)
        await eventually(lambda: phase(world, alices) is Phase.ACTIVE, "she is next", 3)


async def test_who_gets_no_answer_after_a_restart_keeps_his_place(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa", limit=1)
    bobs, alices = await bob_waits_before_alice(world)
    answers(world, None, None, True, seconds=1.0)
    async with world.running():
        await eventually(lambda: phase(world, bobs) is Phase.ACTIVE, "he opens", 10)
        assert phase(world, alices) is Phase.PENDING


async def test_who_gets_no_answer_for_long_keeps_nobody_waiting(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa", limit=1)
    bobs, alices = await bob_waits_before_alice(world)
    answers(world, None, seconds=0.0)
    async with world.running():
        await throughout(lambda: phase(world, alices) is Phase.PENDING, "she waits", 100)
        await eventually(lambda: phase(world, alices) is Phase.ACTIVE, "she opens", 30)
        assert phase(world, bobs) is Phase.PENDING


async def test_who_has_to_be_found_again_after_a_restart_keeps_his_place(world: World, cloud: SlowFirewalls) -> None:
    """By the address that he had."""
    group, finder = cloud.create("sg-0aaa", limit=1), ScriptedFinder()
    finder.answers["z"] = (THERE,)
    world.finders = {SourceKind.POD: finder}
    bobs, alices = await bob_waits_before_alice(world, source=POD)
    finder.slow = 5.0
    async with world.running():
        await eventually(lambda: phase(world, bobs) is Phase.ACTIVE, "he opens", 20)
        assert open_to(cloud, group) == [THERE]
        assert phase(world, alices) is Phase.PENDING


async def test_who_could_be_elsewhere_too_takes_nobodys_room_after_a_restart(
    world: World, cloud: SlowFirewalls
) -> None:
    """The pass of one group hears nothing of who names the other alone."""
    first, _ = cloud.create("sg-0aaa", limit=1), cloud.create("sg-0bbb", limit=1)
    async with world.running():
        world.resource("second", groups=("sg-0bbb",))
        world.resource("either", groups=("sg-0aaa", "sg-0bbb"))
        open_ = world.session("open", resources=({"name": "second"},), cidrs=("203.0.113.100/32",))
        await eventually(lambda: phase(world, open_) is Phase.ACTIVE, "it opens")
        waits = world.session("waits", resources=({"name": "second"},), cidrs=("203.0.113.101/32",))
        await eventually(lambda: phase(world, waits) is Phase.PENDING, "it waits")
        cloud.put(first, Rule("198.51.100.1/32", "tcp", 22, 22), "office")
        later = world.session("a", resources=({"name": "either"},), cidrs=("203.0.113.102/32",))
        await eventually(lambda: phase(world, later) is not None, "it is told")

    async def may_use(_requester: Requester, resource: Key) -> bool:
        await asyncio.sleep(3.0 if resource.name == "second" else 0.0)
        return True

    world.cluster.may_use = may_use  # type: ignore[method-assign]
    world.edit(AccessSession, open_.key, stop=True)
    async with world.running():
        await eventually(lambda: phase(world, waits) is Phase.ACTIVE, "the older opens", 10)
        assert phase(world, later) is Phase.PENDING


@pytest.mark.parametrize(("told", "opens"), [((None, None, None, True), "z"), ((None,), "a")])
async def test_who_gets_no_answer_while_he_waits_keeps_his_place_for_a_while(
    world: World, cloud: SlowFirewalls, told: tuple[bool | None, ...], opens: str
) -> None:
    """He is asked about every half a minute, and somebody ends just then."""
    cloud.create("sg-0aaa", limit=1)
    async with world.running():
        first, *waiting = await in_line(world)
        asked = answers(world, *told, seconds=0.0)
        await eventually(lambda: asked, "he is asked about", 40)
        world.edit(AccessSession, first.key, stop=True)
        await eventually(lambda: phase(world, first) is Phase.CANCELLED, "its end")

        def live() -> list[str]:
            return [each.metadata.name for each in waiting if phase(world, each) is Phase.ACTIVE]

        await eventually(live, "somebody is let in", 200)
        assert live() == [opens]


# what changes meanwhile


async def binding_is_edited(world: World, younger: bool, after: float) -> tuple[AccessSession, AccessSession | None]:
    """The edit takes nothing from who waits, half a second before somebody ends; a review takes a second."""
    world.resource()
    await asyncio.sleep(after)
    first, binding = world.session("first", cidrs=("203.0.113.50/32",), duration="4h"), world.binding()
    await eventually(lambda: phase(world, first) is Phase.ACTIVE, "it opens")
    older, other = world.session_by(binding, "z", duration="4h"), None
    await eventually(lambda: phase(world, older) is Phase.PENDING, "it waits")
    await asyncio.sleep(2)
    if younger:
        other = world.session("a", cidrs=("203.0.113.51/32",), duration="4h")
        await eventually(lambda: phase(world, other) is Phase.PENDING, "it waits")

    async def may_use(_who: Requester, _resource: Key) -> bool:
        await asyncio.sleep(1.0)
        return True

    world.cluster.may_use = may_use  # type: ignore[method-assign]
    world.edit(ApiKeyBinding, binding.key, maxDuration="12h")
    await asyncio.sleep(0.5)
    world.edit(AccessSession, first.key, stop=True)
    return older, other


async def test_who_waits_by_a_key_is_not_forgotten_when_its_binding_is_edited(
    world: World, cloud: SlowFirewalls
) -> None:
    cloud.create("sg-0aaa", limit=1)
    async with world.running():
        older, _ = await binding_is_edited(world, younger=False, after=200.0)
        await eventually(lambda: phase(world, older) is Phase.ACTIVE, "it opens", 10)


async def test_who_waits_by_a_key_keeps_his_place_while_its_binding_is_edited(
    world: World, cloud: SlowFirewalls
) -> None:
    cloud.create("sg-0aaa", limit=1)
    async with world.running():
        older, younger = await binding_is_edited(world, younger=True, after=5.0)
        await eventually(lambda: Phase.ACTIVE in (phase(world, older), phase(world, younger)), "one opens", 60)
        assert phase(world, older) is Phase.ACTIVE, "the younger opened first"


async def test_nobody_is_held_up_by_who_has_been_let_in_again(world: World, cloud: SlowFirewalls) -> None:
    """The session is from before the start."""
    cloud.create("sg-0aaa", limit=1)
    async with world.running():
        older, younger = await binding_is_edited(world, younger=True, after=0.0)
        await eventually(lambda: Phase.ACTIVE in (phase(world, older), phase(world, younger)), "one opens", 60)


async def test_who_has_been_refused_keeps_nobody_waiting(world: World, cloud: SlowFirewalls) -> None:
    """Bob may not use it, and was told so; when he is asked about again, the API server does not answer him."""
    cloud.create("sg-0aaa", limit=1)
    asked = answers(world, False, None, seconds=0.0)
    async with world.running():
        world.resource()
        first = world.session("first", cidrs=("203.0.113.50/32",), duration="4h")
        await eventually(lambda: phase(world, first) is Phase.ACTIVE, "it opens")
        bobs = world.session("z", metadata=STAMPS, duration="4h")
        await eventually(lambda: phase(world, bobs) is Phase.FAILED, "bob is refused")
        alices = world.session("a", cidrs=("203.0.113.51/32",), duration="4h")
        await eventually(lambda: phase(world, alices) is Phase.PENDING, "alice waits")
        await eventually(lambda: len(asked) > 1, "he is asked about again", 60)
        world.edit(AccessSession, first.key, stop=True)
        await eventually(lambda: phase(world, alices) is Phase.ACTIVE, "she is next", 10)


async def test_a_kept_place_lets_nobody_overtake(world: World, cloud: SlowFirewalls) -> None:
    """Bob, who has no answer, and the youngest want the same rule; who waits between them is before her."""
    cloud.create("sg-0aaa", limit=1)
    async with world.running():
        world.resource()
        first = world.session("first", cidrs=("203.0.113.50/32",), duration="4h")
        await eventually(lambda: phase(world, first) is Phase.ACTIVE, "it opens")
        waiting = []
        for name, cidr, more in (("z", ONE, {"metadata": STAMPS}), ("m", "203.0.113.2/32", {}), ("a", ONE, {})):
            waiting.append(world.session(name, cidrs=(cidr,), **more))
            await eventually(lambda: phase(world, waiting[-1]) is Phase.PENDING, "it waits")
    world.edit(AccessSession, first.key, stop=True)
    answers(world, False, seconds=5.0)
    _, middle, youngest = waiting
    async with world.running():
        await eventually(lambda: phase(world, middle) is Phase.ACTIVE, "who comes next opens", 10)
        assert phase(world, youngest) is Phase.PENDING
