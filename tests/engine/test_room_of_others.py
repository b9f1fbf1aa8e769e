"""Room that rules of others take: nobody waits behind who waits for them."""

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from gatepass.core.rules import ObservedRule, Rule, Target
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


def rules(world: World, cloud: SlowFirewalls, group: Target) -> Callable[[], None]:
    first, _ = (cloud.put(group, Rule(f"198.51.100.{n}/32", "tcp", 22, 22), "office") for n in range(2))

    def make_room() -> None:
        del cloud.rules(group)[first]

    return make_room


def prefix_list(world: World, cloud: SlowFirewalls, group: Target) -> Callable[[], None]:
    def put(entries: int) -> None:
        cloud.rules(group)["sgr-0list"] = ObservedRule("sgr-0list", None, "office", None, (entries, entries))

    put(2)
    return lambda: put(1)


def static_ranges(world: World, cloud: SlowFirewalls, group: Target) -> Callable[[], None]:
    ranges = [{"cidr": f"198.51.100.{n}/32"} for n in range(2)]
    office = world.resource("office", staticCIDRs=ranges)
    return lambda: world.edit(ProtectedResource, office.key, staticCIDRs=ranges[1:])


@pytest.mark.parametrize("others", [rules, prefix_list, static_ranges])
async def test_who_does_not_fit_beside_others_holds_up_nobody_until_he_would(
    world: World, cloud: SlowFirewalls, others: Callable[[World, SlowFirewalls, Target], Callable[[], None]]
) -> None:
    group = cloud.create("sg-0aaa", limit=4)
    make_room = others(world, cloud, group)
    async with world.running(resync=10):
        world.resource("wide", ports=({"port": 1}, {"port": 2}, {"port": 3}))
        world.resource("narrow")
        await asyncio.sleep(5)

        def small(number: int) -> AccessSession:
            return world.session(f"small-{number}", resources=({"name": "narrow"},), cidrs=(f"203.0.113.{number}/32",))

        def phase(session: AccessSession) -> Phase:
            return world.status(session).phase

        big = world.session("big", resources=({"name": "wide"},))
        await eventually(lambda: phase(big) is Phase.PENDING, "it waits")
        assert world.status(big).resources[0].message == "place 1: needs 3 rules, 2 free (IPv4)"
        first = small(1)
        await eventually(lambda: phase(first) is Phase.ACTIVE, "who fits opens", 5)
        make_room()
        await asyncio.sleep(15)  # until the resync has seen it
        second = small(2)
        await throughout(lambda: phase(second) is Phase.PENDING, "who came first has his turn", 30)
        world.edit(AccessSession, first.key, stop=True)
        await eventually(lambda: phase(big) is Phase.ACTIVE, "it opens", 5)
        assert phase(second) is Phase.PENDING


@pytest.mark.parametrize("also", [(), ("sg-0aaa",)])
async def test_nobody_is_overtaken_by_who_could_be_elsewhere_too(
    world: World, cloud: SlowFirewalls, also: tuple[str, ...]
) -> None:
    """The pass of the other group hears nothing of who names this one alone."""
    cloud.create("sg-0aaa", limit=1)
    cloud.create("sg-0bbb", limit=2)
    async with world.running(resync=36_000):
        world.resource("either", groups=("sg-0aaa", "sg-0bbb"))
        world.resource("wide", groups=(*also, "sg-0bbb"), ports=({"port": 1}, {"port": 2}))

        def small(number: int) -> AccessSession:
            return world.session(f"s-{number}", resources=({"name": "either"},), cidrs=(f"203.0.113.{number}/32",))

        def over(session: AccessSession) -> bool:
            return world.status(session).phase is Phase.CANCELLED

        def live(sessions: list[AccessSession]) -> list[AccessSession]:
            return [each for each in sessions if world.status(each).phase is Phase.ACTIVE]

        first = [small(number) for number in range(3)]
        await eventually(lambda: live(first) == first, "the groups are full", 10)
        big = world.session("big", resources=({"name": "wide"},), cidrs=("203.0.113.100/32",))
        await eventually(lambda: world.status(big).phase is Phase.PENDING, "it waits", 5)
        later = [small(number) for number in range(3, 12)]
        await eventually(lambda: all(world.status(each).phase is Phase.PENDING for each in later), "all wait", 5)
        for each in first:
            world.edit(AccessSession, each.key, stop=True)
            await eventually(partial(over, each), "its end", 6)
        await eventually(lambda: live([big]), "it opens", 5)
        assert live(later) == later[:1]


async def test_who_waits_is_told_his_place_at_once_whoever_else_wants_the_same_room(
    world: World, cloud: SlowFirewalls
) -> None:
    """His own group's pass tells him, and no other places him before."""
    cloud.create("sg-0aaa", limit=1)
    cloud.create("sg-0bbb", limit=2)
    async with world.running(resync=36_000):
        world.resource("either", groups=("sg-0aaa", "sg-0bbb"))
        world.resource("wide", groups=("sg-0bbb",), ports=({"port": 1}, {"port": 2}))
        either = ({"name": "either"},)
        first = [world.session(f"s-{n}", resources=either, cidrs=(f"203.0.113.{n}/32",)) for n in range(3)]
        await eventually(lambda: all(world.status(each).phase is Phase.ACTIVE for each in first), "all are full", 10)
        wide = [world.session("wide-1", resources=({"name": "wide"},), cidrs=("198.51.100.1/32",))]
        await throughout(lambda: world.status(wide[0]).phase is Phase.PENDING, "it waits", 200)
        world.session("later", resources=either, cidrs=("203.0.113.9/32",))
        wide.append(world.session("wide-2", resources=({"name": "wide"},), cidrs=("198.51.100.2/32",)))

        def told() -> list[str | None]:
            return [entry.message for each in wide for entry in world.status(each).resources]

        places = [f"place {number}: needs 2 rules, 0 free (IPv4)" for number in (1, 2)]
        await eventually(lambda: told() == places, "they are told", 2)
