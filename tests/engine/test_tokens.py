"""Where calls are scarce: who waits for a token holds up nobody, and what it writes is what is wanted by then."""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

import pytest

from gatepass.core.plan import Write, is_ours
from gatepass.core.rules import Rule, Target
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from gatepass.engine.targets import OTHERS_LOOK_SECONDS, READS_LAG_SECONDS
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import OWNER, World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

GROUPS = 100
"""Three times as many as there are workers."""


class Scarce(SlowFirewalls):
    """There is no token for some kinds of calls before a moment of the event loop's time."""

    def __init__(self) -> None:
        super().__init__()
        self.none_before: dict[Write, float] = {}
        self.scarce: set[str] = set()
        self.reserved: Counter[Write] = Counter()
        self.kept: Collection[Write] = ()

    def reserve(self, target: Target, kinds: Collection[Write], *, doubtful: bool = False) -> Mapping[Write, float]:
        del doubtful
        self.reserved.update(kinds)
        self.kept = kinds
        if target.id not in self.scarce:
            return dict.fromkeys(kinds, 0.0)
        now = asyncio.get_running_loop().time()
        return {kind: max(self.none_before.get(kind, 0.0) - now, 0.0) for kind in kinds}


@pytest.fixture
def cloud() -> Scarce:
    return Scarce()


def doors(cloud: Scarce, group: Target) -> set[tuple[str, int | None]]:
    """Every (source, last port) of the group."""
    return {(held.rule.cidr, held.rule.end_port) for held in cloud.rules(group).values() if held.rule is not None}


async def test_who_waits_for_a_token_holds_up_nobody_else(world: World, cloud: Scarce) -> None:
    other = cloud.create("sg-other")
    groups = [cloud.create(f"sg-{number:04}") for number in range(GROUPS)]
    cloud.scarce, cloud.none_before = {group.id for group in groups}, {"grants": 60.0}
    async with world.running():
        world.resource("other", groups=(other.id,))
        open_now = world.session("other", resources=({"name": "other"},))
        for group in groups:
            world.resource(group.id, groups=(group.id,))
            world.session(group.id, resources=({"name": group.id},))
        await asyncio.sleep(10)
        assert cloud.rules(other)
        world.edit(AccessSession, open_now.key, stop=True)
        await eventually(lambda: not cloud.rules(other), "it closes", 1)
        assert not any(cloud.rules(group) for group in groups)
        await asyncio.sleep(51)
        assert all(cloud.rules(group) for group in groups)


async def test_who_ends_while_his_grant_waits_is_never_opened(world: World, cloud: Scarce) -> None:
    group = cloud.create("sg-0aaa")
    cloud.scarce, cloud.none_before = {group.id}, {"grants": 10.0}
    async with world.running():
        world.resource()
        first, second = world.session(), world.session("second", cidrs=("203.0.113.8/32",))
        await asyncio.sleep(5)
        world.edit(AccessSession, first.key, stop=True)
        await eventually(lambda: world.status(second).phase is Phase.ACTIVE, "a token is there", 6)
        assert doors(cloud, group) == {("203.0.113.8/32", 5432)}
        assert cloud.calls["grant"] == 1
        assert world.status(first).phase is Phase.CANCELLED


async def test_what_closes_does_not_wait_for_what_opens(world: World, cloud: Scarce) -> None:
    group = cloud.create("sg-0aaa")
    cloud.scarce = {group.id}
    async with world.running():
        world.resource()
        first = world.session()
        await asyncio.sleep(5)
        cloud.none_before = {"grants": 60.0}
        world.session("second", cidrs=("203.0.113.8/32",))
        world.edit(AccessSession, first.key, stop=True)
        await eventually(lambda: not cloud.rules(group), "it closes", 1)


async def test_what_opens_waits_for_the_room_of_what_closes(world: World, cloud: Scarce) -> None:
    group = cloud.create("sg-0aaa", limit=1)
    cloud.scarce = {group.id}
    async with world.running():
        world.resource()
        first = world.session()
        await asyncio.sleep(5)
        cloud.none_before = {"revokes": 20.0}
        second = world.session("second", cidrs=("203.0.113.8/32",))
        world.edit(AccessSession, first.key, stop=True)
        await eventually(lambda: world.status(second).phase is Phase.ACTIVE, "there is room", 20)
        assert cloud.calls["grant"] == 2, "none is refused as full"


@pytest.mark.parametrize(("kind", "lost"), [("relabels", {"description": ""}), ("retags", {"owner": None})])
async def test_marks_wait_too_and_hold_up_nothing(
    world: World, cloud: Scarce, kind: Write, lost: dict[str, str | None]
) -> None:
    group = cloud.create("sg-0aaa")
    cloud.scarce = {group.id}
    async with world.running(resync=10):
        world.resource()
        first = world.session()
        await asyncio.sleep(READS_LAG_SECONDS + 10)
        (id_,) = cloud.rules(group)
        cloud.none_before = {kind: READS_LAG_SECONDS + 60}
        cloud.rules(group)[id_] = replace(cloud.rules(group)[id_], **lost)
        await asyncio.sleep(20)
        world.session("second", cidrs=("203.0.113.8/32",))
        await eventually(lambda: len(cloud.rules(group)) == 2, "others open", 2)
        assert not is_ours(cloud.rules(group)[id_], OWNER, known=())
        await asyncio.sleep(40)
        assert is_ours(cloud.rules(group)[id_], OWNER, known=())
        assert world.status(first).phase is Phase.ACTIVE


@pytest.mark.parametrize("newcomer", [False, True])
async def test_what_gets_another_rule_keeps_the_one_that_it_has_until_then(
    world: World, cloud: Scarce, newcomer: bool
) -> None:
    """Whoever else wants the same door by then."""
    group = cloud.create("sg-0aaa")
    cloud.scarce = {group.id}
    async with world.running():
        resource = world.resource()
        world.session()
        ends = world.session("ends", cidrs=("203.0.113.8/32",))
        await asyncio.sleep(5)
        cloud.none_before = {"grants": 60.0}
        if newcomer:
            world.session("newcomer")
        world.edit(ProtectedResource, resource.key, ports=[{"port": 5432, "endPort": 5440}])
        world.edit(AccessSession, ends.key, stop=True)
        await asyncio.sleep(2)
        assert doors(cloud, group) == {("203.0.113.7/32", 5432)}, "what ends does not wait"
        await eventually(lambda: list(cloud.kept) == ["grants"], "no call is kept for what stays", 3)
        await asyncio.sleep(60)
        assert doors(cloud, group) == {("203.0.113.7/32", 5440)}


async def test_while_a_token_is_awaited_nothing_is_read_and_everything_is_told(world: World, cloud: Scarce) -> None:
    """Not even where one rests on another installation's rule, which is read now and then."""
    group = cloud.create("sg-0aaa")
    cloud.scarce, cloud.none_before = {group.id}, {"grants": 100.0}
    theirs = f"gatepass until={world.at(7200)} for=ci/db"
    cloud.put(group, Rule("203.0.113.7/32", "tcp", 5432, 5432), theirs, "another-cluster/gatepass-system/gatepass")
    async with world.running():
        resource = world.resource()
        rests = world.session()
        await asyncio.sleep(2)
        reads = cloud.calls["observe"]
        for number in range(60):
            world.session(f"s{number}", cidrs=(f"198.51.100.{number}/32",))
            await asyncio.sleep(1)
        assert cloud.calls["observe"] - reads <= 60 / OTHERS_LOOK_SECONDS + 1
        assert world.status(rests).phase is Phase.ACTIVE
        told = world.cluster.get(ProtectedResource, resource.key).status
        assert [each.status for each in told.conditions if each.type == "Ready"] == ["True"]
        assert cloud.calls["grant"] == 0


async def test_nothing_is_reserved_for_what_is_not_asked_for(world: World, cloud: Scarce) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=3600):
        world.resource()
        await asyncio.sleep(5)
        cloud.put(group, Rule("203.0.113.7/32", "tcp", 5432, 5432), "the office")
        cloud.blind = True
        world.session()
        await asyncio.sleep(60)
        assert 2 <= cloud.reserved["grants"] == cloud.calls["grant"]


async def test_what_ends_is_not_kept_for_what_another_resource_waits_for(world: World, cloud: Scarce) -> None:
    group = cloud.create("sg-0aaa")
    cloud.scarce = {group.id}
    async with world.running(resync=30):
        world.resource("narrow")
        world.resource("wide", ports=({"port": 5000, "endPort": 6000},))
        world.session("narrow", resources=({"name": "narrow"},))
        ends = world.session("wide", resources=({"name": "wide"},))
        await asyncio.sleep(READS_LAG_SECONDS + 80)
        cloud.none_before = {"grants": 1000.0}
        (id_,) = (id_ for id_, held in cloud.rules(group).items() if held.rule and held.rule.end_port == 5432)
        del cloud.rules(group)[id_]
        await asyncio.sleep(35)
        world.edit(AccessSession, ends.key, stop=True)
        await eventually(lambda: not cloud.rules(group), "it closes", 1)


async def test_an_old_yes_opens_nothing_when_a_token_comes_at_last(world: World, cloud: Scarce) -> None:
    group = cloud.create("sg-0aaa")
    cloud.scarce, cloud.none_before = {group.id}, {"grants": 600.0}
    async with world.running():
        world.resource()
        session = world.session()
        await asyncio.sleep(20)
        world.cluster.allowed = lambda _who, _key: False
        await asyncio.sleep(700)
        assert cloud.rules(group) == {}
        assert world.status(session).resources[0].reason == "NotAuthorized"
