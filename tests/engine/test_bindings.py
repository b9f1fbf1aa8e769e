"""Keys are made, written, replaced and ended; what their sessions may open ends with them."""

import asyncio

import pytest

from gatepass.core.binding_status import KeySecret
from gatepass.core.keys import key_hash
from gatepass.core.types.binding import ApiKeyBinding, ApiKeyBindingStatus
from gatepass.core.types.common import CHANGED_BY, FINALIZER, REQUESTED_BY, Key
from gatepass.core.types.session import EndedReason, Phase
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import ALICE, LoopClock, World

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

SECRET = Key("ci", "ci-key")
ROTATION = {"interval": "1h", "overlap": "10m"}


def held(world: World) -> str:
    text = world.cluster.secrets[SECRET].text
    assert text is not None
    return text


def status(world: World, binding: ApiKeyBinding) -> ApiKeyBindingStatus:
    found: ApiKeyBinding = world.cluster.get(ApiKeyBinding, binding.key)
    return found.status


def works(world: World, binding: ApiKeyBinding, text: str) -> bool:
    found: ApiKeyBinding = world.cluster.get(ApiKeyBinding, binding.key)
    return key_hash(text) in found.live_hashes(LoopClock().now())


async def test_a_key_works_before_anybody_can_read_it(world: World) -> None:
    async with world.running():
        binding = world.binding()
        await asyncio.sleep(1)
        assert works(world, binding, held(world))
        verbs = [verb for verb, key in world.cluster.writes if key == binding.key]
        assert verbs == ["status", "key_secret", "event KeyIssued"]
        await asyncio.sleep(3600)
        assert [verb for verb, key in world.cluster.writes if key == binding.key] == verbs  # nothing changes


async def test_a_key_that_never_got_into_its_secret_is_forgotten(world: World) -> None:
    async with world.running():
        world.cluster.refuse = lambda verb: verb == "key_secret"
        binding = world.binding()
        await asyncio.sleep(60)
        world.cluster.refuse = lambda _verb: False
        await asyncio.sleep(600)
        assert [key.hash for key in status(world, binding).keys] == [key_hash(held(world))]


async def test_the_secret_is_repaired_by_a_new_key_though_no_event_tells(world: World) -> None:
    async with world.running():
        binding = world.binding()
        await asyncio.sleep(1)
        first = held(world)
        del world.cluster.secrets[SECRET]
        await asyncio.sleep(3)
        second = held(world)
        world.cluster.secrets[SECRET] = KeySecret(True, first)
        await asyncio.sleep(3)
        third = held(world)
        assert len({first, second, third}) == 3
        assert [works(world, binding, text) for text in (first, second, third)] == [False, False, True]


async def test_a_secret_of_somebody_else_is_never_written(world: World) -> None:
    world.cluster.secrets[SECRET] = KeySecret(False, "theirs")
    async with world.running():
        binding = world.binding()
        await asyncio.sleep(600)
        assert world.cluster.secrets[SECRET] == KeySecret(False, "theirs")
        assert {each.type for each in status(world, binding).conditions} == {"Ready", "SecretConflict"}
        del world.cluster.secrets[SECRET]
        await asyncio.sleep(600)
        assert works(world, binding, held(world))
        assert {each.type for each in status(world, binding).conditions} == {"Ready"}


@pytest.mark.parametrize("crash", [False, True])
async def test_who_reads_the_secret_never_fails_over_rotations(world: World, crash: bool) -> None:
    binding = None
    seen = []
    for _ in range(4):
        async with world.running():
            if binding is None:
                binding = world.binding(rotation=ROTATION)
                await asyncio.sleep(1)
            for _ in range(450):
                await asyncio.sleep(10)
                assert works(world, binding, held(world))
                seen.append(held(world))
                # Now and then the second write of a rotation fails, or the operator ends before it.
                world.cluster.refuse = lambda verb: crash and verb == "key_secret"
            world.cluster.refuse = lambda _verb: False
    assert binding is not None
    assert len(set(seen)) > 3
    assert [works(world, binding, text) for text in dict.fromkeys(seen)][:-2] == [False] * (len(set(seen)) - 2)
    assert len(status(world, binding).keys) <= 2


async def test_the_old_key_dies_at_the_end_of_the_overlap(world: World) -> None:
    async with world.running():
        binding = world.binding(rotation=ROTATION)
        await asyncio.sleep(1)
        first = held(world)
        await asyncio.sleep(3600 - 350)
        assert [each.type for each in status(world, binding).conditions] == ["Ready", "RotationDue"]
        await asyncio.sleep(360)
        assert held(world) != first
        assert works(world, binding, first)
        assert [each.type for each in status(world, binding).conditions] == ["Ready"]
        await asyncio.sleep(600)
        assert not works(world, binding, first)
        assert works(world, binding, held(world))


async def test_the_sessions_of_a_key_open_and_end_with_it(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    for how in ("revoked", "deleted", "replaced"):
        async with world.running():
            world.resource()
            binding = world.binding()
            session = world.session_by(binding, how)
            spared = world.session("spared", cidrs=("203.0.113.8/32",))
            await asyncio.sleep(5)
            assert world.status(session).phase is Phase.ACTIVE
            if how == "revoked":
                world.edit(ApiKeyBinding, binding.key, revoked=True)
            else:
                world.cluster.delete(ApiKeyBinding, binding.key)
            if how == "replaced":
                world.binding(metadata={"uid": "another"})
            await asyncio.sleep(5)
            ended = world.status(session)
            assert (ended.phase, ended.ended_reason) == (Phase.CANCELLED, EndedReason.KEY_REVOKED)
            assert world.status(spared).phase is Phase.ACTIVE
            assert {str(each.rule.cidr) for each in cloud.rules(group).values()} == {"203.0.113.8/32"}
        world.cluster.objects.clear()


@pytest.mark.parametrize(
    ("bound", "asked", "reason"),
    [
        ({"resources": [{"name": "cache"}]}, {}, "NotAuthorized"),
        ({"maxDuration": "30m"}, {}, "DurationTooLong"),
        ({"namespace": "platform"}, {"resources": ({"name": "staging-db", "namespace": "ci"},)}, "KeyUnknown"),
    ],
)
async def test_the_operator_asks_of_a_key_again(
    world: World, cloud: SlowFirewalls, bound: dict[str, object], asked: dict[str, object], reason: str
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session_by(world.binding(**bound), **asked)
        await asyncio.sleep(60)
        found = world.status(session)
        assert (found.phase, found.resources[0].reason) == (Phase.FAILED, reason)
        assert not cloud.rules(group)


BOB = '{"username":"bob","uid":"2","groups":["ci"]}'


@pytest.mark.parametrize(
    ("stamps", "who"),
    [({REQUESTED_BY: ALICE}, "alice"), ({REQUESTED_BY: ALICE, CHANGED_BY: BOB}, "bob")],
    ids=["made", "changed"],
)
async def test_a_key_opens_nothing_that_who_bound_it_may_not_use(
    world: World, cloud: SlowFirewalls, stamps: dict[str, str], who: str
) -> None:
    group = cloud.create("sg-0aaa")
    world.cluster.allowed = lambda asked, _key: asked.username != who
    async with world.running():
        world.resource()
        session = world.session_by(world.binding(metadata={"annotations": stamps}))
        await asyncio.sleep(60)
        (told,) = world.status(session).resources
        assert (told.reason, cloud.rules(group)) == ("NotAuthorized", {})
        assert f'user "{who}"' in (told.message or "")
        world.cluster.allowed = lambda _asked, _key: True
        await asyncio.sleep(600)
        assert world.status(session).phase is Phase.ACTIVE


@pytest.mark.parametrize("stamps", [{}, {REQUESTED_BY: "alice"}, {REQUESTED_BY: ALICE, CHANGED_BY: ""}])
async def test_nobody_vouches_for_a_key_without_a_stamp(
    world: World, cloud: SlowFirewalls, stamps: dict[str, str]
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session_by(world.binding(metadata={"annotations": stamps}))
        await asyncio.sleep(60)
        assert (world.status(session).resources[0].reason, cloud.rules(group)) == ("RequesterUnknown", {})


async def test_only_who_has_a_key_says_what_the_api_saw(world: World, cloud: SlowFirewalls) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        by_alice = {"annotations": {REQUESTED_BY: ALICE}, "finalizers": [FINALIZER]}
        session = world.session_by(world.binding(), metadata=by_alice)
        await asyncio.sleep(60)
        assert world.status(session).resources[0].reason == "SourceNotAllowed"
        assert not cloud.rules(group)


async def test_the_note_of_a_keys_use_is_no_news_to_its_sessions(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa")
    async with world.running() as engine:
        world.resource()
        binding = world.binding()
        for number in range(3):
            world.session_by(binding, f"it-{number}")
        await asyncio.sleep(60)
        used = world.cluster.get(ApiKeyBinding, binding.key)
        noted = used.status.model_copy(update={"last_used_at": LoopClock().now()})
        world.cluster.put(used.model_copy(update={"status": noted}))
        assert engine.store.bindings[binding.key].status.last_used_at is not None
        assert engine.insight.snapshot().queues["session"].due == 0
        world.edit(ApiKeyBinding, binding.key, maxDuration="30m")
        assert engine.insight.snapshot().queues["session"].due == 3
