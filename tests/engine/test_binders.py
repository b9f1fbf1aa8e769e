"""Keys are believed only if admission policies were there when they were bound, and each time that was changed."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import pytest

from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import CHANGED_BY, REQUESTED_BY
from gatepass.core.types.session import AccessSession, Phase
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import BIG_BANG, LoopClock, World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

ROOT = '{"username":"root","uid":"0","groups":["system:masters"]}'
FORGED = {"annotations": {REQUESTED_BY: ROOT}}


@pytest.fixture(autouse=True)
def group(cloud: SlowFirewalls) -> object:
    return cloud.create("sg-0aaa")


@contextmanager
def no_policies(world: World) -> Iterator[None]:
    """They are away, and are made anew."""
    world.cluster.verified_since = None
    yield
    world.cluster.verified_since = LoopClock().now().replace(microsecond=0)  # as Kubernetes tells it


async def opens(world: World, binding: ApiKeyBinding, name: str) -> bool:
    """Does its key open anything?"""
    session = world.session_by(binding, name)
    await eventually(lambda: world.status(session).resources, "the session is looked at")
    await asyncio.sleep(60)
    status = world.status(session)
    if status.phase is Phase.ACTIVE:
        return True
    (told,) = status.resources
    assert told.reason == "RequesterUnverified"
    assert f"ApiKeyBinding {binding.key}" in (told.message or "")
    world.cluster.delete(AccessSession, session.key)
    return False


async def test_a_key_that_was_bound_without_the_policies_is_never_believed(world: World) -> None:
    async with world.running():
        world.resource()
        with no_policies(world):
            binding = world.binding(metadata=FORGED)
            await asyncio.sleep(5)
        await asyncio.sleep(1)
        assert not await opens(world, binding, "forged")
    async with world.running():
        assert not await opens(world, binding, "after-a-start")


async def test_a_key_survives_that_the_policies_are_made_anew(world: World) -> None:
    async with world.running():
        world.resource()
        binding = world.binding()
        await asyncio.sleep(5)
        for number in range(2):
            with no_policies(world):
                await asyncio.sleep(5)
            await asyncio.sleep(1)
            assert await opens(world, binding, f"unchanged-{number}")
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
        assert await opens(world, binding, "before")
        if not down:
            with no_policies(world):
                change()
                await asyncio.sleep(5)
    if down:
        with no_policies(world):
            change()
    async with world.running():
        await asyncio.sleep(1)
        assert not await opens(world, binding, "after")


async def test_an_older_word_for_the_policies_does_not_vouch_for_what_was_changed_since(world: World) -> None:
    before = world.cluster.verified_since

    async def answer(*, anew: bool = False) -> datetime | None:
        return world.cluster.verified_since if anew else before

    async with world.running():
        world.resource()
        binding = world.binding()
        await asyncio.sleep(5)
        world.cluster.requesters_verified_since = answer  # type: ignore[method-assign]
        world.cluster.verified_since = None
        world.edit(ApiKeyBinding, binding.key, {CHANGED_BY: ROOT})
        assert not await opens(world, binding, "meanwhile")
        before = world.cluster.verified_since = BIG_BANG + timedelta(seconds=120)
        await asyncio.sleep(120)
        assert not await opens(world, binding, "afterwards")
