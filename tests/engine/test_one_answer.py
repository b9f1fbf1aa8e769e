"""One answer, one late event or one silence decides nothing for good."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.owners import Sighting
from gatepass.core.ports import Access
from gatepass.core.rules import Target
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, EndedReason, Phase
from gatepass.engine.engine import Engine
from tests.engine.firewalls import SlowFirewalls
from tests.engine.runners import BOUND, IT, JOB, RUNNING, ended, listed, live, opened
from tests.engine.test_safekeeping import AWS, NOTICED, OFFICE, SECRET, Missing, gone
from tests.engine.world import BIG_BANG, World, eventually, throughout

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

SECOND_RUN = Sighting("uid-2", finished=False, created_at=BIG_BANG)


@pytest.fixture(autouse=True)
def group(world: World, cloud: SlowFirewalls) -> Target:
    cloud.missing = Missing(world)
    return cloud.create("sg-0aaa")


# what a session is bound to


async def first_run(world: World, engine: Engine) -> None:
    """A Job of this name, with a session that is bound to it."""
    world.resource()
    first = world.session("run-1", boundTo=BOUND)
    await eventually(lambda: JOB in engine.ends.kinds, "the kind is followed")
    listed(engine, {IT: RUNNING})
    await eventually(lambda: live(world, first), "it is open")


@pytest.mark.parametrize("end", ["deleted", "replaced"])
async def test_a_watch_that_shows_a_jobs_predecessor_ends_no_session(world: World, end: str) -> None:
    """It was deleted and made again before the session of the second run, and the watch of Jobs is late."""
    async with world.running() as engine:
        await first_run(world, engine)
        await asyncio.sleep(1)
        second = world.session("run-2", cidrs=("203.0.113.8/32",), boundTo=BOUND)
        await eventually(lambda: live(world, second), "it is open")
        if end == "deleted":
            engine.ends.gone(JOB, IT, "uid-1")
        engine.ends.seen(JOB, IT, SECOND_RUN)
        await throughout(lambda: live(world, second), "it is open", 60)
        status = world.status(second)
        assert status.bound_to is not None
        assert status.bound_to.uid == "uid-2"
        engine.ends.seen(JOB, IT, SECOND_RUN._replace(finished=True))
        await eventually(lambda: not live(world, second), "it ends with its own", 2)


async def test_a_watch_that_shows_a_finished_predecessor_ends_no_session(world: World) -> None:
    async with world.running() as engine:
        await first_run(world, engine)
        other = {**BOUND, "name": "other"}
        world.session("keeps-the-watch", cidrs=("203.0.113.9/32",), boundTo=other)
        engine.ends.seen(JOB, Key("ci", "other"), Sighting("uid-o", finished=False))
        engine.ends.seen(JOB, IT, RUNNING._replace(finished=True))
        await asyncio.sleep(5)
        second = world.session("run-2", cidrs=("203.0.113.8/32",), boundTo=BOUND)
        await eventually(lambda: JOB in engine.ends.doubted(), "a listing is asked for", 2)
        assert world.status(second).ended_at is None
        listed(engine, {IT: SECOND_RUN, Key("ci", "other"): Sighting("uid-o", finished=False)})
        await eventually(lambda: live(world, second), "it is open")


async def test_a_job_that_had_finished_before_anybody_looked_ends_its_session(world: World) -> None:
    async with world.running() as engine:
        await first_run(world, engine)
        other = {**BOUND, "name": "other"}
        world.session("keeps-the-watch", cidrs=("203.0.113.9/32",), boundTo=other)
        engine.ends.seen(JOB, Key("ci", "other"), Sighting("uid-o", finished=False))
        engine.ends.seen(JOB, IT, RUNNING._replace(finished=True))
        await asyncio.sleep(5)
        second = world.session("run-2", cidrs=("203.0.113.8/32",), boundTo=BOUND)
        await eventually(lambda: JOB in engine.ends.doubted(), "a listing is asked for", 2)
        listed(engine, {IT: RUNNING._replace(finished=True), Key("ci", "other"): Sighting("uid-o", finished=False)})
        await eventually(lambda: world.status(second).ended_reason is EndedReason.OWNER_FINISHED, "its end", 2)


@pytest.mark.parametrize("after", [0, 5])
async def test_a_job_of_the_same_name_that_is_not_older_is_another(world: World, after: int) -> None:
    async with world.running() as engine:
        world.resource()
        session = world.session(boundTo=BOUND)
        await eventually(lambda: JOB in engine.ends.kinds, "the kind is followed")
        listed(engine, {IT: RUNNING})
        await asyncio.sleep(5)
        created = session.metadata.creation_timestamp + timedelta(seconds=after)
        engine.ends.gone(JOB, IT, "uid-1")
        engine.ends.seen(JOB, IT, Sighting("uid-2", finished=False, created_at=created))
        await asyncio.sleep(1)
        ended(world, session, EndedReason.OWNER_FINISHED)


async def test_another_job_of_its_name_after_a_restart_is_another(world: World) -> None:
    """Whatever it says of itself: the one on record was seen when its watch was not late."""
    async with world.running() as engine:
        session = await opened(world, engine, boundTo=BOUND)
    async with world.running() as engine:
        await eventually(lambda: JOB in engine.ends.kinds, "the kind is followed")
        listed(engine, {IT: Sighting("uid-2", finished=False, created_at=BIG_BANG - timedelta(hours=1))})
        await asyncio.sleep(1)
        ended(world, session, EndedReason.OWNER_FINISHED)


# the key that a session came with


async def test_a_key_that_is_heard_of_late_was_not_revoked(world: World) -> None:
    async with world.running() as engine:
        world.resource()
        world.cluster.watchers.remove(engine)
        binding = world.binding(secretName="ci-key")
        world.cluster.watchers.append(engine)
        session = world.session_by(binding)
        await throughout(lambda: world.status(session).ended_at is None, "it is not over", 10)
        engine.seen(binding)
        await eventually(lambda: live(world, session), "it is open")
        world.cluster.delete(ApiKeyBinding, binding.key)
        await asyncio.sleep(1)
        ended(world, session, EndedReason.KEY_REVOKED)


# what AWS says


class Refusing:
    """Sign-ins are refused so many times more."""

    def __init__(self, cloud: SlowFirewalls) -> None:
        self.times = 0
        self._identify = cloud.identify
        cloud.identify = self.identify  # type: ignore[method-assign]

    async def identify(self, access: Access) -> str:
        if self.times and access.credentials.secret:
            self.times -= 1
            raise ProviderError(Failure.FORBIDDEN, "AuthFailure", "the key is not accepted")
        return await self._identify(access)


async def test_one_refusal_lets_no_secret_go_that_has_to_close_something(
    world: World, cloud: SlowFirewalls, group: Target
) -> None:
    refusing = Refusing(cloud)
    async with world.running(resync=60):
        world.resource(aws=AWS)
        session = world.session(duration="10m")
        await eventually(lambda: live(world, session), "it is open")
        world.cluster.delete_secret(SECRET)
        await asyncio.sleep(2 * NOTICED)
        refusing.times = 1
        await eventually(lambda: not refusing.times, "it is refused", 61)
        await throughout(lambda: not gone(world), "the Secret is there", 60)
        await eventually(lambda: world.status(session).phase is Phase.EXPIRED, "its end", 600)
        assert cloud.rules(group) == {}
        await eventually(lambda: gone(world), "the Secret goes", 60)


async def test_a_secret_stays_while_nobody_can_say_what_it_has_to_close(
    world: World, cloud: SlowFirewalls, group: Target
) -> None:
    async with world.running():
        resource = world.resource(aws=AWS, staticCIDRs=[OFFICE])
        await eventually(lambda: cloud.rules(group), "it is open")
    cloud.refused.add("key")
    async with world.running():
        world.edit(ProtectedResource, resource.key, staticCIDRs=[])
        await asyncio.sleep(150)
        world.cluster.delete_secret(SECRET)
        await throughout(lambda: not gone(world), "the Secret is there", 60)
        cloud.refused.clear()
        await eventually(lambda: not cloud.rules(group), "it is closed", 60)
        await eventually(lambda: gone(world), "the Secret goes", 60)


@pytest.mark.parametrize("besides", [False, True])
async def test_who_never_got_anything_ends_though_nobody_can_sign_in(
    world: World, cloud: SlowFirewalls, besides: bool
) -> None:
    """After a restart, when reads show everything that an earlier process may have put."""
    cloud.create("sg-0bbb")
    refusing = Refusing(cloud)
    async with world.running():
        world.resource("works", groups=("sg-0bbb",))
        world.resource(aws=AWS)
        await eventually(lambda: world.ready("staging-db") == "True", "it was well once")
    refusing.times = 1_000_000
    names = ["works", "staging-db"] if besides else ["staging-db"]
    async with world.running():
        session = world.session(resources=[{"name": name} for name in names])
        told = Phase.PARTIAL if besides else Phase.FAILED
        await eventually(lambda: world.status(session).phase is told, "it is refused one of them", 60)
    async with world.running():
        await asyncio.sleep(10)
        world.edit(AccessSession, session.key, stop=True)
        await eventually(lambda: world.status(session).phase is Phase.CANCELLED, "its end", 130)
        world.cluster.delete(AccessSession, session.key)
        await eventually(lambda: (AccessSession, session.key) not in world.cluster.objects, "it goes", 30)


async def test_a_rule_that_this_process_has_put_is_ours_without_the_tag_that_says_so(
    world: World, cloud: SlowFirewalls, group: Target
) -> None:
    """A tool takes it off before anybody has read it; one of a static range is on no record."""
    async with world.running(resync=60):
        resource = world.resource()
        await eventually(lambda: world.ready("staging-db") == "True", "it is well")
        world.edit(ProtectedResource, resource.key, staticCIDRs=[OFFICE])
        await eventually(lambda: cloud.rules(group), "it is open")
        for id_, rule in list(cloud.rules(group).items()):
            cloud.rules(group)[id_] = replace(rule, maker=None)
        cloud.blind = True  # a read may miss it at first
        await asyncio.sleep(65)
        cloud.blind = False
        await asyncio.sleep(200)
        world.edit(ProtectedResource, resource.key, staticCIDRs=[])
        await eventually(lambda: not cloud.rules(group), "it is closed", 60)
