"""Sessions that do not declare where they come from: found, kept, and moved."""

import asyncio

import pytest

from gatepass.core.errors import SourceError
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, EndedReason, Phase
from tests.engine.finders import DOOR, HERE, POD, SIX, ScriptedFinder, open_to, says
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


async def test_a_session_opens_to_what_was_found_with_one_write(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    group = cloud.create("sg-0aaa")
    finder.answers["it-1"], finder.slow = (HERE, SIX), 3.0
    async with world.running():
        world.resource()
        await asyncio.sleep(5)
        world.cluster.writes.clear()
        session = world.session(source=POD)
        await asyncio.sleep(10)
        status = world.status(session)
        assert status.phase is Phase.ACTIVE
        assert open_to(cloud, group) == [SIX, HERE]
    assert [verb for verb, key in world.cluster.writes if key == session.key and verb == "status"] == ["status"]
    assert status.source is not None
    assert [(a.ip, a.version, a.evidence) for a in status.source.addresses] == [
        (HERE, 4, f"gateway of {HERE}"),
        (SIX, 6, f"gateway of {SIX}"),
    ]
    assert all(address.observed_at is not None for address in status.source.addresses)
    says(status, "SourceResolved", "True", "Found", HERE, SIX, "gateway of")
    assert status.address == f"{HERE}, {SIX}"


async def test_who_may_have_nothing_is_not_looked_for(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    cloud.create("sg-0aaa")
    world.cluster.allowed = lambda _who, _key: False
    async with world.running():
        world.resource()
        session = world.session(source=POD)
        await asyncio.sleep(60)
        assert world.status(session).phase is Phase.FAILED
    assert finder.asked == []


async def test_a_way_that_the_policy_does_not_list_is_not_looked_for(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource(policy={"sources": ["cidrs"]})
        session = world.session(source=POD)
        await asyncio.sleep(60)
        entry = world.status(session).resources[0]
        assert (entry.reason, world.status(session).phase) == ("SourceNotAllowed", Phase.FAILED)
    assert finder.asked == []


async def test_a_way_that_is_not_there_fails_the_session_at_once(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session(source=POD)
        await asyncio.sleep(5)
        status = world.status(session)
        assert status.phase is Phase.FAILED
        says(status, "SourceResolved", "False", "SourceNotAvailable", "spec.source.pod", "does not find")
        says(status, "Settled", "True", "Failed", "spec.source.pod")
        assert open_to(cloud, group) == []


async def test_what_is_awaited_is_not_asked_for_again_before_its_event(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    group = cloud.create("sg-0aaa")
    finder.answers["it-1"] = SourceError("PodNotScheduled", "pod ci/runner has no node yet", awaited=True)
    async with world.running() as engine:
        world.resource()
        session = world.session(source=POD)
        await asyncio.sleep(300)
        status = world.status(session)
        assert status.phase is Phase.PENDING
        says(status, "SourceResolved", "False", "PodNotScheduled", "has no node yet")
        assert (status.address, open_to(cloud, group)) == (None, [])
        asked = len(finder.asked)
        assert asked <= 3, "once, and at the looks that every start has"
        finder.answers["it-1"] = (HERE,)
        engine.source_changed(session.key)
        await asyncio.sleep(2)
        assert len(finder.asked) == asked + 1
        assert world.status(session).phase is Phase.ACTIVE
        assert open_to(cloud, group) == [HERE]


async def test_what_fails_is_tried_again_with_backoff(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    cloud.create("sg-0aaa")
    finder.answers["it-1"] = SourceError("RequestLimitExceeded", "EC2 says: later", retry=True)
    async with world.running():
        world.resource()
        session = world.session(source=POD)
        await asyncio.sleep(60)
        says(world.status(session), "SourceResolved", "False", "RequestLimitExceeded", "later")
        assert world.status(session).phase is Phase.PENDING
        assert 5 <= len(finder.asked) <= 12
        finder.answers["it-1"] = (HERE,)
        await asyncio.sleep(120)
        assert world.status(session).phase is Phase.ACTIVE


async def test_who_does_not_answer_is_told_of_and_asked_again(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    cloud.create("sg-0aaa")
    finder.slow = 1e6
    async with world.running():
        world.resource()
        session = world.session(source=POD)
        await asyncio.sleep(45)
        says(world.status(session), "SourceResolved", "False", "SourceTimeout", "30 s")
        finder.slow = 0.0
        await asyncio.sleep(60)
        assert world.status(session).phase is Phase.ACTIVE


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (("127.0.0.1",), "InvalidAddress"),
        (("2001:DB8::7",), "InvalidAddress"),
        (("runner",), "InvalidAddress"),
        (("0.0.0.0/0",), "InvalidAddress"),
        (("10.1.2.3",), "PrivateAddress"),
        (("203.0.113.0/28",), "AddressTooWide"),
        ((), "NoAddress"),
        (tuple(f"203.0.113.{n}" for n in range(65)), "TooManyAddresses"),
    ],
)
async def test_what_is_found_is_bounded_as_what_is_declared(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder, found: tuple[str, ...], reason: str
) -> None:
    group = cloud.create("sg-0aaa")
    finder.answers["it-1"] = found
    async with world.running():
        world.resource()
        session = world.session(source=POD)
        await asyncio.sleep(10)
        status = world.status(session)
        assert (status.phase, status.resources[0].reason) == (Phase.FAILED, reason)
        assert open_to(cloud, group) == []


async def test_256_rules_are_the_most_for_what_is_found_too(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    group = cloud.create("sg-0aaa", limit=1000)
    finder.answers["it-1"] = tuple(f"203.0.113.{n}" for n in range(17))
    async with world.running():
        world.resource(ports=tuple({"port": port} for port in range(1000, 1016)))
        session = world.session(source=POD)
        await asyncio.sleep(10)
        assert world.status(session).resources[0].reason == "TooManyRules"
        assert open_to(cloud, group) == []


@pytest.mark.parametrize("trouble", ["slow", "refused", "retry", "missing"])
async def test_a_restart_keeps_what_was_granted_whatever_becomes_of_the_finder(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder, trouble: str
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session(source=POD)
        await asyncio.sleep(5)
    (before,) = cloud.rules(group)
    match trouble:
        case "slow":
            finder.slow = 1e6
        case "missing":
            world.finders = {}
        case _:
            finder.answers["it-1"] = SourceError("PodGone", "there is no pod ci/runner", retry=trouble == "retry")
    async with world.running(resync=60.0):
        for _ in range(200):
            await asyncio.sleep(1)
            assert set(cloud.rules(group)) == {before}
        assert world.status(session).phase is Phase.ACTIVE
        says(world.status(session), "SourceResolved", "True", "FoundBefore", "looking again failed")


async def test_a_restart_finds_the_same_again_and_writes_nothing(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session(source=POD)
        await asyncio.sleep(5)
    asked = len(finder.asked)
    world.cluster.writes.clear()
    async with world.running():
        await asyncio.sleep(300)
    assert len(finder.asked) > asked
    assert ("status", session.key) not in world.cluster.writes


async def test_what_is_read_back_is_held_to_the_policy_of_today(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    group = cloud.create("sg-0aaa")
    finder.answers["it-1"] = ("10.1.2.3",)
    async with world.running():
        world.resource(policy={"allowPrivateAddresses": True})
        session = world.session(source=POD)
        await asyncio.sleep(5)
        assert open_to(cloud, group) == ["10.1.2.3"]
    world.edit(ProtectedResource, DOOR, policy={})
    finder.slow = 1e6
    async with world.running():
        await asyncio.sleep(20)
        assert open_to(cloud, group) == []
        assert world.status(session).ended_reason is EndedReason.POLICY_WITHDRAWN


async def test_a_record_that_somebody_has_edited_opens_nothing_and_is_looked_for_again(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session(source=POD)
        await asyncio.sleep(5)
    stored = world.cluster.get(AccessSession, session.key)
    for ip in ("0.0.0.0/0", "127.0.0.1", "nonsense"):
        forged = {"addresses": [{"ip": ip, "version": 4}]}
        status = {**stored.status.to_json(), "source": forged}
        world.cluster.put(AccessSession.model_validate({**stored.to_json(), "status": status}))
        async with world.running():
            await asyncio.sleep(200)
            assert (world.status(session).phase, world.status(session).address) == (Phase.ACTIVE, HERE)
            assert open_to(cloud, group) == [HERE]


async def test_a_session_that_ends_while_it_is_looked_for_opens_nothing(
    world: World, cloud: SlowFirewalls, finder: ScriptedFinder
) -> None:
    group = cloud.create("sg-0aaa")
    finder.slow = 10.0
    async with world.running():
        world.resource()
        session = world.session(source=POD)
        await asyncio.sleep(5)
        world.edit(AccessSession, session.key, stop=True)
        await asyncio.sleep(30)
        assert world.status(session).phase is Phase.CANCELLED
        assert open_to(cloud, group) == []
    assert cloud.calls["grant"] == 0
