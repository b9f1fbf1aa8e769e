"""Several credentials on one group, and few calls: what one is refused holds up no other, and is asked rarely."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.plan import Write
from gatepass.core.ports import (
    Access,
    GrantOutcome,
    NewRule,
    RelabelOutcome,
    RevokeOutcome,
    Still,
    Unknown,
)
from gatepass.core.rules import Rule, Stamp, Target
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from gatepass.providers.aws_pacing import ScarceError
from tests.engine.paced import PacedFirewalls
from tests.engine.test_scarcity import secret, several
from tests.engine.world import World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

REFUSED = ProviderError(Failure.FORBIDDEN, "UnauthorizedOperation", "not these")


class Selective(PacedFirewalls):
    """Some credentials, by their Secret, are refused some calls; each costs a token all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: dict[tuple[str, Write], ProviderError] = {}
        self.loses_answers_of = ""

    def _ask(self, access: Access, target: Target, kind: Write) -> None:
        assert access.credentials.secret is not None
        if error := self.refuses.get((access.credentials.secret[1], kind)):
            self.spend(target, kind)
            raise error

    async def grant(
        self, access: Access, target: Target, rules: Sequence[NewRule], stamp: Stamp, still: Still
    ) -> Mapping[Rule, GrantOutcome]:
        try:
            self._ask(access, target, "grants")
        except ScarceError:
            return {}
        return await super().grant(access, target, rules, stamp, still)

    async def revoke(
        self, access: Access, target: Target, ids: Sequence[str], *, doubtful: bool = False
    ) -> Mapping[str, RevokeOutcome]:
        try:
            self._ask(access, target, "revokes")
        except ScarceError:
            return {}
        except ProviderError as error:
            return dict.fromkeys(ids, error)
        if access.credentials.secret == ("ci", self.loses_answers_of):
            return dict.fromkeys(ids, Unknown())
        return await super().revoke(access, target, ids, doubtful=doubtful)

    async def relabel(
        self, access: Access, target: Target, descriptions: Mapping[str, str]
    ) -> Mapping[str, RelabelOutcome]:
        try:
            self._ask(access, target, "relabels")
        except ScarceError:
            return {}
        return await super().relabel(access, target, descriptions)


@pytest.fixture
def cloud() -> Selective:
    return Selective()


async def test_a_rule_is_put_with_credentials_whose_session_is_to_have_it_here(world: World, cloud: Selective) -> None:
    """Another's session wants the same, has its place elsewhere, and its credentials are refused."""
    here, elsewhere = cloud.create("sg-0aaa"), cloud.create("sg-0bbb")
    async with world.running():
        other = secret(world, "b", elsewhere)
        secret(world, "z", here)
        await asyncio.sleep(5)
        world.session("b", duration="20h", resources=({"name": "b"},))
        await asyncio.sleep(150)
        aws = {"region": here.region, "securityGroups": [elsewhere.id, here.id]}
        world.edit(ProtectedResource, other.key, aws={**aws, "credentials": {"secretRef": {"name": "b"}}})
        await asyncio.sleep(10)
        cloud.refuses["b", "grants"] = REFUSED
        cloud.rules(elsewhere).clear()
        await asyncio.sleep(700)
        session = world.session("z", resources=({"name": "z"},))
        await eventually(lambda: world.status(session).phase is Phase.ACTIVE, "it opens", 10)


@pytest.mark.parametrize("answer", [REFUSED, ProviderError(Failure.RETRY, "NoConnection", "not now")])
@pytest.mark.parametrize("both_refused_before", [False, True])
async def test_who_cannot_close_keeps_nobody_from_it(
    world: World, cloud: Selective, answer: ProviderError, both_refused_before: bool
) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=3600):
        await several(world, group, "ab")
        session = world.session(resources=({"name": "b"},))
        await asyncio.sleep(150)
        if both_refused_before:
            cloud.refuses["b", "grants"] = REFUSED
            world.session("refused", cidrs=("203.0.113.77/32",), resources=({"name": "b"},))
            await asyncio.sleep(20)
        cloud.refuses["a", "revokes"] = answer
        with cloud.contended("revokes", 0.5):
            await asyncio.sleep(1)
            world.edit(AccessSession, session.key, stop=True)
            await eventually(lambda: not cloud.rules(group), "it closes", 10)


async def test_who_is_refused_a_grant_keeps_nobody_waiting_for_as_long_as_himself(
    world: World, cloud: Selective
) -> None:
    group = cloud.create("sg-0aaa")
    cloud.refuses["a", "grants"] = REFUSED
    async with world.running(resync=3600):
        secret(world, "a", group, staticCIDRs=[{"cidr": "192.0.2.0/24"}])
        secret(world, "b", group)
        await asyncio.sleep(700)
        with cloud.contended("grants", 0.3):
            await asyncio.sleep(1)
            for number in range(1, 8):
                world.session(f"x{number}", cidrs=(f"198.51.100.{number}/32",), resources=({"name": "b"},))
                await asyncio.sleep(0.15 * number)
                second = world.session(f"y{number}", cidrs=(f"203.0.113.{number}/32",), resources=({"name": "b"},))
                await eventually(lambda: world.status(second).phase is Phase.ACTIVE, "it opens", 5)  # noqa: B023  here


async def test_who_may_set_no_marks_keeps_nobody_from_it(world: World, cloud: Selective) -> None:
    group = cloud.create("sg-0aaa")
    cloud.refuses["a", "relabels"] = REFUSED
    async with world.running(resync=3600):
        await several(world, group, "ab")
        session = world.session(resources=({"name": "b"},))
        await asyncio.sleep(150)
        ((id_, put),) = cloud.rules(group).items()
        with cloud.contended("relabels", 1.0):
            await asyncio.sleep(1)
            asked = asyncio.get_running_loop().time()
            world.edit(AccessSession, session.key, duration="3h")
            await eventually(lambda: cloud.rules(group)[id_].description != put.description, "it is labelled", 10)
        assert cloud.sent_since("relabels", asked) <= 3


async def test_refused_marks_are_tried_ever_more_rarely_also_after_calls_were_scarce(
    world: World, cloud: Selective
) -> None:
    for name in "ab":
        cloud.refuses[name, "relabels"] = REFUSED
    async with world.running(resync=36000):
        sessions = []
        for number in range(6):
            group = cloud.create(f"sg-{number:04}")
            for key in "ab":
                secret(world, f"{key}{number}", group, key)
            sessions.append(world.session(f"s{number}", resources=({"name": f"a{number}"},)))
        await asyncio.sleep(150)
        with cloud.contended("relabels", 0.3):
            await asyncio.sleep(1)
            for each in sessions:
                world.edit(AccessSession, each.key, duration="3h")
            await asyncio.sleep(20)
        await asyncio.sleep(280)
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(600)
        assert 0 < cloud.sent_since("relabels", now) <= 6 * 2 * 4


async def test_several_who_cannot_close_are_asked_once(world: World, cloud: Selective) -> None:
    group = cloud.create("sg-0aaa")
    async with world.running(resync=3600):
        for number in range(7):
            secret(world, f"a{number}", group)
            cloud.refuses[f"a{number}", "revokes"] = REFUSED
        secret(world, "z", group)
        await asyncio.sleep(5)
        sessions = [
            world.session(f"s{number}", cidrs=(f"198.51.100.{number}/32",), resources=({"name": "z"},))
            for number in range(4)
        ]
        await asyncio.sleep(150)
        with cloud.contended("revokes", 0.5):
            for number, each in enumerate(sessions):
                await asyncio.sleep(30)
                before = cloud.sent_since("revokes", 0.0)
                world.edit(AccessSession, each.key, stop=True)
                await eventually(lambda: len(cloud.rules(group)) == 3 - number, "it closes", 20)  # noqa: B023  here
                assert cloud.sent_since("revokes", 0.0) - before <= (8 if number == 0 else 1)


async def test_a_rule_that_two_want_is_put_by_who_can(world: World, cloud: Selective) -> None:
    cloud.create("sg-0aaa")
    cloud.refuses["a", "grants"] = ProviderError(Failure.RETRY, "NoConnection", "not now")
    async with world.running():
        for name in "ab":
            secret(world, name, Target("aws", "123456789012", "eu-central-1", "sg-0aaa"))
        await asyncio.sleep(5)
        both = [world.session(name, resources=({"name": name},)) for name in "ab"]
        await eventually(lambda: all(world.status(each).phase is Phase.ACTIVE for each in both), "both are open", 20)


@pytest.mark.parametrize("scarce", [False, True])
async def test_who_opens_all_the_time_puts_off_nobody_who_could_not_for_a_while(
    world: World, cloud: Selective, scarce: bool
) -> None:
    """A pause is doubled by failures, and not by passes that others have brought."""
    group = cloud.create("sg-0aaa", limit=1000)
    async with world.running(resync=36000):
        for name in "abc":
            secret(world, name, group)
        await asyncio.sleep(150)
        cloud.refuses["a", "grants"] = ProviderError(Failure.RETRY, "NoConnection", "not now")
        with cloud.contended("grants", 0.3) if scarce else nullcontext():
            await asyncio.sleep(1)
            waits = world.session("a", resources=({"name": "a"},))
            for number in range(15):
                for name, net in (("b", "192.0.2"), ("c", "192.0.3")):
                    world.session(f"{name}{number}", cidrs=(f"{net}.{number}/32",), resources=({"name": name},))
                await asyncio.sleep(1)
            cloud.refuses.clear()
            await eventually(lambda: world.status(waits).phase is Phase.ACTIVE, "it opens", 20)


async def test_who_may_not_close_is_missed_when_there_is_no_call_to_open(world: World, cloud: Selective) -> None:
    """One refusal stands for one kind of call."""
    group = cloud.create("sg-0aaa", limit=1000)
    cloud.refuses["a", "grants"] = cloud.refuses["b", "revokes"] = REFUSED
    async with world.running(resync=36000):
        secret(world, "a", group, staticCIDRs=[{"cidr": "192.0.2.0/24"}])
        for name in "bc":
            secret(world, name, group)
        await asyncio.sleep(700)
        with cloud.contended("grants", 0.3):
            await asyncio.sleep(1)
            for number in range(1, 8):
                ends = world.session(f"x{number}", cidrs=(f"198.51.100.{number}/32",), resources=({"name": "b"},))
                await asyncio.sleep(4)
                world.session(f"w{number}", cidrs=(f"198.51.99.{number}/32",), resources=({"name": "c"},))
                await asyncio.sleep(4)
                world.edit(AccessSession, ends.key, stop=True)
                await asyncio.sleep(0.37 * number)
                opens = world.session(f"y{number}", cidrs=(f"203.0.113.{number}/32",), resources=({"name": "b"},))
                await eventually(lambda: world.status(opens).phase is Phase.ACTIVE, "it opens", 10)  # noqa: B023  here


async def test_nobody_is_told_of_what_the_same_credentials_are_refused_otherwise(
    world: World, cloud: Selective
) -> None:
    group = cloud.create("sg-0aaa")
    cloud.refuses["a", "revokes"] = REFUSED
    async with world.running(resync=36000):
        await several(world, group, "a")
        stopped = world.session("stopped", resources=({"name": "a"},))
        await asyncio.sleep(150)
        world.edit(AccessSession, stopped.key, stop=True)
        await eventually(lambda: world.status(stopped).resources[0].reason == "UnauthorizedOperation", "its refusal")
        with cloud.contended("grants", 20.0):
            await asyncio.sleep(1)
            waits = world.session("waits", cidrs=("203.0.113.8/32",), resources=({"name": "a"},))
            for _ in range(40):
                await asyncio.sleep(0.5)
                assert world.status(waits).phase is not Phase.FAILED
        await eventually(lambda: world.status(waits).phase is Phase.ACTIVE, "it opens", 40)


async def test_what_nobody_needs_any_more_is_nobodys_trouble(world: World, cloud: Selective) -> None:
    """What credentials were refused once is forgotten with the last who wanted it."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=36000) as engine:
        await several(world, group, "a")

        def told() -> tuple[str, bool]:
            return world.ready("a"), engine.insight.snapshot().targets[0].failing

        await asyncio.sleep(150)
        cloud.refuses["a", "grants"] = REFUSED
        session = world.session(resources=({"name": "a"},))
        await eventually(lambda: told() == ("False", True), "it is told", 20)
        world.edit(AccessSession, session.key, stop=True)
        await eventually(lambda: told() == ("True", False), "it is over", 20)


async def test_what_is_wrong_with_a_rule_is_told_its_own_session_alone(world: World, cloud: Selective) -> None:
    """The others of its call have to wait for another one."""
    group, grant = cloud.create("sg-0aaa"), cloud.grant
    malformed = ProviderError(Failure.TERMINAL, "InvalidParameterValue", "not this one")

    async def picky(
        access: Access, target: Target, rules: Sequence[NewRule], stamp: Stamp, still: Still
    ) -> Mapping[Rule, GrantOutcome]:
        wrong = {new.rule: malformed for new in rules if new.rule.cidr.startswith("203.")}
        if wrong:
            cloud.spend(target, "grants")
        return wrong or await grant(access, target, rules, stamp, still)

    cloud.grant = picky  # type: ignore[method-assign]
    async with world.running(resync=36000):
        await several(world, group, "a")
        with cloud.contended("grants", 20.0):
            await asyncio.sleep(1)
            wrong = world.session("wrong", cidrs=("203.0.113.8/32",), resources=({"name": "a"},))
            right = world.session("right", cidrs=("198.51.100.1/32",), resources=({"name": "a"},))
            await eventually(lambda: world.status(wrong).phase is Phase.FAILED, "its refusal", 30)
            for _ in range(30):
                await asyncio.sleep(0.5)
                assert world.status(right).phase is not Phase.FAILED
        await eventually(lambda: world.status(right).phase is Phase.ACTIVE, "it opens", 40)


async def test_what_has_ended_and_is_not_written_yet_is_not_put_again(world: World, cloud: Selective) -> None:
    """Its rule has drifted away, and ends while other credentials' call takes its time."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=120):
        for name in "ab":
            secret(world, name, group, policy={"sources": ["cidrs", "request"]})
        key = world.binding(resources=[{"name": "b"}])
        await asyncio.sleep(5)
        session = world.session_by(key, "keyed", resources=({"name": "b"},))
        await asyncio.sleep(355 - 5)
        assert world.status(session).phase is Phase.ACTIVE
        cloud.rules(group).clear()
        cloud.slow_answer, cloud.slow[group.id] = 6.0, 3.0
        await asyncio.sleep(6)  # it is read, which tells, and somebody comes meanwhile
        world.session("one", cidrs=("198.51.100.1/32",), resources=({"name": "a"},))
        await eventually(lambda: cloud.rules(group), "the first call", 10)
        world.cluster.refuse = lambda verb: verb == "status"
        world.edit(ApiKeyBinding, key.key, revoked=True)
        for _ in range(60):
            await asyncio.sleep(0.5)
            assert {held.rule.cidr for held in cloud.rules(group).values() if held.rule} <= {"198.51.100.1/32"}


async def test_who_gets_no_answers_leaves_it_to_others(world: World, cloud: Selective) -> None:
    """Also to those who were refused once."""
    group = cloud.create("sg-0aaa")
    async with world.running(resync=3600):
        await several(world, group, "ab")
        first, second = (
            world.session(f"s{number}", cidrs=(f"198.51.100.{number}/32",), resources=({"name": "b"},))
            for number in range(2)
        )
        await asyncio.sleep(150)
        cloud.refuses["a", "revokes"] = cloud.refuses["b", "revokes"] = REFUSED
        world.edit(AccessSession, first.key, stop=True)
        await asyncio.sleep(5)
        del cloud.refuses["a", "revokes"]
        await eventually(lambda: len(cloud.rules(group)) == 1, "it closes", 10)
        cloud.refuses.clear()
        cloud.loses_answers_of = "a"
        world.edit(AccessSession, second.key, stop=True)
        await eventually(lambda: not cloud.rules(group), "it closes", 10)
