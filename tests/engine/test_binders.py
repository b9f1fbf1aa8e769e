"""Keys are believed only if admission policies were there when they were bound, and each time that was changed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest

from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import CHANGED_BY, REQUESTED_BY
from gatepass.core.types.session import AccessSession, Phase
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import BIG_BANG, LoopClock, World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

ROOT = '{"username":"root","uid":"0","groups":["system:masters"]}'
FORGED = {"annotations": {REQUESTED_BY: ROOT}}


@pytest.fixture(autouse=True)
def group(cloud: SlowFirewalls) -> object:
    return cloud.create("sg-0aaa")


def stored(world: World, binding: ApiKeyBinding) -> ApiKeyBinding:
    found: ApiKeyBinding = world.cluster.get(ApiKeyBinding, binding.key)
    return found


async def until_vouched_for(world: World, binding: ApiKeyBinding) -> None:
    """By the policies that are in force now."""

    def told() -> bool:
        vouched = stored(world, binding).status.vouched
        return vouched is not None and vouched.policies_since == world.cluster.verified_since

    await eventually(told, "somebody vouches for it", 60)


async def until_ready_says(world: World, binding: ApiKeyBinding, reason: str) -> None:
    """The Ready condition of the binding."""
    await eventually(
        lambda: reason in {each.reason for each in stored(world, binding).status.conditions if each.type == "Ready"},
        f"Ready says {reason}",
        60,
    )


@asynccontextmanager
async def no_policies(world: World) -> AsyncIterator[None]:
    """They are away, and are made anew."""
    world.cluster.verified_since = None
    yield
    since = world.cluster.verified_since = LoopClock().now().replace(microsecond=0)  # as Kubernetes tells it
    await eventually(lambda: LoopClock().now() >= since + timedelta(seconds=1), "the next second")


async def opens(world: World, binding: ApiKeyBinding, name: str) -> bool:
    """Does its key open anything?"""
    session = world.session_by(binding, name)
    await eventually(lambda: world.status(session).phase in (Phase.ACTIVE, Phase.FAILED), "it is decided")
    if world.status(session).phase is Phase.ACTIVE:
        return True
    await throughout(lambda: world.status(session).phase is Phase.FAILED, "the refusal", 60)
    (told,) = world.status(session).resources
    assert told.reason == "RequesterUnverified"
    assert f"ApiKeyBinding {binding.key}" in (told.message or "")
    world.cluster.delete(AccessSession, session.key)
    return False


async def test_a_key_that_was_bound_without_the_policies_is_never_believed(world: World) -> None:
    async with world.running():
        world.resource()
        async with no_policies(world):
            binding = world.binding(metadata=FORGED)
            await until_ready_says(world, binding, "RequesterUnverified")
        assert not await opens(world, binding, "forged")
    async with world.running():
        assert not await opens(world, binding, "after-a-start")


async def test_a_key_survives_that_the_policies_are_made_anew(world: World) -> None:
    async with world.running():
        world.resource()
        binding = world.binding()
        await until_vouched_for(world, binding)
        for number in range(2):
            async with no_policies(world):
                await until_ready_says(world, binding, "RequesterUnverified")
            assert await opens(world, binding, f"unchanged-{number}")
            await until_vouched_for(world, binding)
            world.edit(ApiKeyBinding, binding.key, {CHANGED_BY: ROOT}, maxDuration=f"{23 - number}h")
            assert await opens(world, binding, f"changed-since-{number}")


@pytest.mark.parametrize("stamps", [{}, {CHANGED_BY: ROOT}, {REQUESTED_BY: ROOT}], ids=["spec", "changer", "maker"])
@pytest.mark.parametrize("down", [False, True], ids=["running", "down"])
async def test_what_was_changed_without_the_policies_is_not_believed(
    world: World, stamps: dict[str, str], down: bool
) -> None:
    def change() -> None:
        world.edit(ApiKeyBinding, binding.key, stamps, **({} if stamps else {"maxDuration": "12h"}))

    async with world.running():
        world.resource()
        binding = world.binding()
        await until_vouched_for(world, binding)
        assert await opens(world, binding, "before")
        if not down:
            async with no_policies(world):
                change()
                await until_ready_says(world, binding, "RequesterUnverified")
    if down:
        async with no_policies(world):
            change()
    async with world.running():
        assert not await opens(world, binding, "after")


async def test_an_older_word_for_the_policies_does_not_vouch_for_what_was_changed_since(world: World) -> None:
    before = world.cluster.verified_since

    async def answer(*, anew: bool = False) -> datetime | None:
        return world.cluster.verified_since if anew else before

    async with world.running():
        world.resource()
        binding = world.binding()
        await until_vouched_for(world, binding)
        world.cluster.requesters_verified_since = answer  # type: ignore[method-assign]
        world.cluster.verified_since = None
        world.edit(ApiKeyBinding, binding.key, {CHANGED_BY: ROOT})
        assert not await opens(world, binding, "meanwhile")
        since = before = world.cluster.verified_since = BIG_BANG + timedelta(seconds=120)
        await eventually(lambda: LoopClock().now() >= since + timedelta(seconds=1), "they are in force", 130)
        assert not await opens(world, binding, "afterwards")
