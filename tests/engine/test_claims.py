"""Sessions that are claimed: one token, one clock that starts at the claim, and an end when nobody comes."""

import asyncio
import re
from datetime import timedelta

import pytest

from gatepass.core.keys import key_hash
from gatepass.core.rules import Rule, Target
from gatepass.core.types.common import Key, SourceKind, format_time
from gatepass.core.types.session import AccessSession, EndedReason, Phase
from gatepass.engine.claims import ClaimFinder, secret_name
from tests.engine.finders import HERE, SIX, says
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import BIG_BANG, LoopClock, World

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

CLAIM = {"claim": {"within": "2m"}}
URL = "https://gatepass.example.com"


@pytest.fixture(autouse=True)
def claims(world: World, cloud: SlowFirewalls) -> None:
    world.finders = {SourceKind.CLAIM: ClaimFinder(world.cluster, URL)}
    cloud.create("sg-0aaa")


def recorded(world: World, session: AccessSession, *ips: str) -> None:
    """As the REST API records a claim."""
    stored = world.cluster.get(AccessSession, session.key)
    addresses = [
        {"ip": ip, "version": 6 if ":" in ip else 4, "evidence": "claimed", "observedAt": format_time(BIG_BANG)}
        for ip in ips
    ]
    started = {"startedAt": format_time(LoopClock().now())} if stored.status.started_at is None else {}
    status = {**stored.status.to_json(), "source": {"addresses": addresses}, **started}
    world.cluster.put(AccessSession.model_validate({**stored.to_json(), "status": status}))


def cloud_rules(cloud: SlowFirewalls) -> list[Rule]:
    group = Target("aws", "123456789012", "eu-central-1", "sg-0aaa")
    return sorted(found.rule for found in cloud.rules(group).values() if found.rule is not None)


async def test_the_token_is_in_the_secret_and_nowhere_else(world: World) -> None:
    async with world.running():
        world.resource()
        session = world.session(source=CLAIM)
        await asyncio.sleep(5)
        status = world.status(session)
        token = world.cluster.secrets[Key("ci", "it-1-claim")].text
    assert token is not None
    assert re.fullmatch(r"gp_claim_[0-9A-Za-z]{49}", token)
    assert status.claim is not None
    assert status.claim.url == f"{URL}/api/v1/sessions/{session.uid}/claim"
    assert (status.claim.secret_name, status.claim.token_hash) == ("it-1-claim", key_hash(token))
    assert status.claim.expires_at == status.expires_at == BIG_BANG + timedelta(minutes=2)
    assert (status.phase, status.started_at) == (Phase.PENDING, None)
    assert token not in world.cluster.get(AccessSession, session.key).model_dump_json()
    says(status, "SourceResolved", "False", "Unclaimed", "it-1-claim", status.claim.url)


async def test_the_clock_starts_at_the_claim(world: World, cloud: SlowFirewalls) -> None:
    async with world.running():
        world.resource()
        session = world.session(source=CLAIM, duration="10m")
        await asyncio.sleep(90)
        recorded(world, session, HERE)
        await asyncio.sleep(5)
        status = world.status(session)
        assert (status.phase, status.address) == (Phase.ACTIVE, HERE)
        assert (status.started_at, status.expires_at) == (
            BIG_BANG + timedelta(seconds=90),
            BIG_BANG + timedelta(seconds=690),
        )
        says(status, "SourceResolved", "True", "Found", f"{HERE}: claimed")
        await asyncio.sleep(590)
        assert world.status(session).phase is Phase.ACTIVE
        await asyncio.sleep(10)
        assert world.status(session).ended_reason is EndedReason.EXPIRED


async def test_who_is_not_claimed_ends(world: World) -> None:
    async with world.running():
        world.resource()
        session = world.session(source=CLAIM)
        await asyncio.sleep(119)
        assert world.status(session).phase is Phase.PENDING
        await asyncio.sleep(3)
        status = world.status(session)
        assert (status.phase, status.ended_reason) == (Phase.EXPIRED, EndedReason.UNCLAIMED)
        says(status, "Settled", "True", "Expired", "nobody claimed it")


async def test_a_claim_in_the_last_moment_wins_over_the_end_that_is_being_written(
    world: World, cloud: SlowFirewalls
) -> None:
    async with world.running():
        world.resource()
        session = world.session(source=CLAIM)
        await asyncio.sleep(119)
        world.cluster.refuse = lambda verb: verb == "status"
        await asyncio.sleep(2)
        recorded(world, session, HERE)
        world.cluster.refuse = lambda _verb: False
        await asyncio.sleep(20)
        assert world.status(session).phase is Phase.ACTIVE


async def test_a_restart_keeps_the_token_and_the_claim(world: World, cloud: SlowFirewalls) -> None:
    async with world.running():
        world.resource()
        session = world.session(source=CLAIM)
        await asyncio.sleep(5)
        offer = world.status(session).claim
    async with world.running():
        await asyncio.sleep(5)
        assert world.status(session).claim == offer
    recorded(world, session, HERE)
    async with world.running():
        await asyncio.sleep(5)
        assert world.status(session).phase is Phase.ACTIVE
    before = cloud_rules(cloud)
    async with world.running():
        await asyncio.sleep(200)
        assert cloud_rules(cloud) == before
        assert world.status(session).claim == offer


async def test_a_token_whose_hash_was_never_written_is_replaced(world: World) -> None:
    world.cluster.refuse = lambda verb: verb == "status"
    async with world.running():
        world.resource()
        session = world.session(source=CLAIM)
        await asyncio.sleep(5)
    lost = world.cluster.secrets[Key("ci", "it-1-claim")].text
    world.cluster.refuse = lambda _verb: False
    world.finders = {SourceKind.CLAIM: ClaimFinder(world.cluster, URL)}
    async with world.running():
        await asyncio.sleep(5)
        offer, token = world.status(session).claim, world.cluster.secrets[Key("ci", "it-1-claim")].text
    assert token is not None
    assert offer is not None
    assert token != lost
    assert offer.token_hash == key_hash(token)


async def test_the_other_family_joins_without_a_gap(world: World, cloud: SlowFirewalls) -> None:
    async with world.running():
        world.resource()
        session = world.session(source=CLAIM)
        await asyncio.sleep(5)
        recorded(world, session, HERE)
        await asyncio.sleep(5)
        before = cloud_rules(cloud)
        recorded(world, session, HERE, SIX)
        for _ in range(20):
            await asyncio.sleep(0.25)
            assert set(before) <= set(cloud_rules(cloud))
        assert [str(rule) for rule in cloud_rules(cloud)] == [f"{SIX}/128 tcp 5432", f"{HERE}/32 tcp 5432"]
        status = world.status(session)
        assert (status.phase, status.address) == (Phase.ACTIVE, f"{HERE}, {SIX}")


async def test_a_claim_is_not_written_over_by_a_status_that_does_not_know_of_it(
    world: World, cloud: SlowFirewalls
) -> None:
    """The session is looked at for another reason between the claim and the answer of the finder."""
    async with world.running() as engine:
        world.resource()
        session = world.session(source=CLAIM)
        await asyncio.sleep(5)
        engine._sources.queue._free = 0  # nobody gets around to asking the finder
        recorded(world, session, HERE)
        world.edit(AccessSession, session.key, reason="looked at again")
        await asyncio.sleep(5)
        status = world.status(session)
        assert status.source is not None
        assert [address.ip for address in status.source.addresses] == [HERE]


async def test_a_claim_from_where_nobody_may_come_from_opens_nothing(world: World, cloud: SlowFirewalls) -> None:
    async with world.running():
        world.resource()
        session = world.session(source=CLAIM)
        await asyncio.sleep(5)
        recorded(world, session, "10.1.2.3")
        await asyncio.sleep(5)
        status = world.status(session)
        assert (status.phase, status.resources[0].reason) == (Phase.FAILED, "PrivateAddress")
        assert cloud_rules(cloud) == []


async def test_without_an_api_to_call_there_is_no_claim(world: World) -> None:
    world.finders = {SourceKind.CLAIM: ClaimFinder(world.cluster, None)}
    async with world.running():
        world.resource()
        session = world.session(source=CLAIM)
        await asyncio.sleep(5)
        status = world.status(session)
        assert status.phase is Phase.FAILED
        says(status, "SourceResolved", "False", "ClaimNotAvailable", "GATEPASS_PUBLIC_URL")
    assert world.cluster.secrets == {}


async def test_who_may_have_nothing_gets_no_token(world: World) -> None:
    world.cluster.allowed = lambda _who, _key: False
    async with world.running():
        world.resource()
        world.session(source=CLAIM)
        await asyncio.sleep(20)
    assert world.cluster.secrets == {}


@pytest.mark.parametrize("name", ["it-42", "a" * 253, "a" * 246 + "." + "b" * 6])
async def test_a_secret_has_a_name_that_is_known_beforehand(name: str) -> None:
    found = secret_name(name)
    assert len(found) <= 253
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", found)
    assert ".-" not in found
