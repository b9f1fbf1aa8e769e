"""What an earlier process has put and nobody has recorded, while reads may still miss it."""

import asyncio
from collections.abc import Callable

import pytest

from gatepass.core.rules import Target
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from tests.engine.firewalls import SlowFirewalls
from tests.engine.paced import PacedFirewalls
from tests.engine.test_scarcity import secret
from tests.engine.world import World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

DB = Key("ci", "staging-db")


@pytest.fixture
def cloud() -> PacedFirewalls:
    return PacedFirewalls()


async def unseen(world: World, cloud: PacedFirewalls) -> tuple[Target, AccessSession]:
    """A rule that is on no record, that no read shows, and whose session has been stopped since."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=36_000):
        secret(world, DB.name, group)
        await asyncio.sleep(150)
        world.cluster.refuse = lambda verb: verb == "status"
        session = world.session()
        await eventually(lambda: cloud.rules(group), "the rule", 5)
    world.cluster.refuse, cloud.blind = lambda _verb: False, True
    world.edit(AccessSession, session.key, stop=True)
    return group, session


async def until_reads_show_it(cloud: PacedFirewalls, true: Callable[[], object], what: str) -> None:
    """It has to be true while reads lag, and from when they do not on, until what was unseen has been looked for."""
    await throughout(true, what, 20)
    cloud.blind = False
    await throughout(true, what, 110)


@pytest.mark.parametrize("goes", ["resource", "Secret"])
async def test_what_it_takes_to_close_is_let_go_once_it_has_shown_and_gone(
    world: World, cloud: PacedFirewalls, goes: str
) -> None:
    group, _ = await unseen(world, cloud)
    if goes == "resource":
        world.cluster.delete(ProtectedResource, DB)
    world.cluster.delete_secret(DB)

    def kept() -> bool:
        return (ProtectedResource, DB) in world.cluster.objects and DB in world.cluster.kept

    async with world.running(resync=36_000):
        await until_reads_show_it(cloud, lambda: kept() or not cloud.rules(group), "what it takes to close")
        await eventually(lambda: not cloud.rules(group), "it is closed", 30)
        await eventually(lambda: not kept(), "it is let go", 30 if goes == "resource" else 200)


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_group_that_was_left_is_drained_until_it_has_shown_and_gone(
    world: World, cloud: PacedFirewalls, deleted: bool
) -> None:
    (group, session), other = await unseen(world, cloud), cloud.create("sg-0bbb")
    credentials = {"secretRef": {"name": DB.name}}
    aws = {"region": group.region, "securityGroups": [other.id], "credentials": credentials}
    world.edit(ProtectedResource, DB, aws=aws)

    def true() -> bool:
        return world.status(session).phase is not Phase.CANCELLED or not cloud.rules(group)

    async with world.running(resync=36_000):
        await throughout(true, "it is said to be over when it is", 40)
        cloud.blind = False
        if deleted:
            world.cluster.delete(ProtectedResource, DB)
        await throughout(true, "it is said to be over when it is", 100)
        await eventually(lambda: not cloud.rules(group), "it is closed", 10)


async def test_a_record_that_it_was_taken_away_tells_nothing_of_what_was_put_since(
    world: World, cloud: PacedFirewalls
) -> None:
    one, other = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    async with world.running(resync=36_000):
        resource = secret(world, "a", one)
        secret(world, "b", other)
        await asyncio.sleep(150)
        session = world.session(resources=({"name": "a"}, {"name": "b"}))
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it opens", 3)
        world.edit(ProtectedResource, resource.key, policy={"sources": ["pod"]})
        await eventually(lambda: not cloud.rules(one), "it is withdrawn", 5)
        await asyncio.sleep(5)
        world.cluster.refuse = lambda verb: verb == "status"
        world.edit(ProtectedResource, resource.key, policy={})
        await eventually(lambda: cloud.rules(one), "it is put again", 5)
    world.cluster.refuse, cloud.blind = lambda _verb: False, True
    world.edit(AccessSession, session.key, stop=True)

    def true() -> bool:
        return world.status(session).phase is not Phase.CANCELLED or not cloud.rules(one)

    async with world.running(resync=36_000):
        await throughout(true, "it is said to be over when it is", 10)
        cloud.blind = False
        await throughout(true, "it is said to be over when it is", 130)
        assert not cloud.rules(one)


@pytest.mark.parametrize("slow", [0.0, 2.5])
async def test_a_look_that_is_due_while_a_read_is_under_way_is_made_after_it(world: World, slow: float) -> None:
    world.firewalls = cloud = SlowFirewalls()
    group = cloud.create("sg-0aaa")
    world.resource()
    session = world.session()
    await asyncio.sleep(10)
    world.edit(AccessSession, session.key, stop=True)
    async with world.running():
        await asyncio.sleep(118)
        assert world.status(session).phase is Phase.EXPIRING
        cloud.lose_answers = True
        world.session("other", cidrs=("203.0.113.9/32",))
        cloud.slow = {group.id: slow}
        await asyncio.sleep(1)
        cloud.lose_answers = False
        await eventually(lambda: world.status(session).phase is Phase.CANCELLED, "two minutes have shown", 15)


@pytest.mark.parametrize(
    ("what", "lost", "lost_at"),
    [
        ("Secret", "everything", "before"),
        ("Secret", "everything", "after"),
        ("Secret", "reads", "after"),
        ("resource", "everything", "after"),
        ("resource", "reads", "after"),
    ],
)
async def test_what_nobody_can_look_at_any_more_is_let_go(
    world: World, cloud: PacedFirewalls, what: str, lost: str, lost_at: str
) -> None:
    """A session from before the start that never had anything, and permissions that are lost before reads settle."""
    permission = "all_refused" if lost == "everything" else "read_refused"
    async with world.running(resync=600):
        secret(world, DB.name, cloud.create("sg-0aaa"), policy={"sources": ["pod"]})
        await asyncio.sleep(10)
        setattr(cloud, permission, lost_at == "before")
        world.session(duration="20h")
        await asyncio.sleep(20)
    async with world.running(resync=600):
        await asyncio.sleep(60)
        setattr(cloud, permission, True)
        world.edit(ProtectedResource, DB, policy={"maxDuration": "20h", "sources": ["pod"]})
        await asyncio.sleep(140)
        if what == "Secret":
            world.cluster.delete_secret(DB)
            await eventually(lambda: DB not in world.cluster.kept, "it is let go", 900)
        else:
            world.cluster.delete(ProtectedResource, DB)
            await eventually(lambda: (ProtectedResource, DB) not in world.cluster.objects, "it is let go", 900)
