"""Several credentials on one group, and few calls: what one is refused holds up no other, and is asked rarely."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import Access, GrantOutcome, NewRule, RelabelOutcome, RevokeOutcome
from gatepass.core.rules import Rule, Stamp, Target
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from tests.engine.paced import PacedFirewalls
from tests.engine.test_scarcity import secret
from tests.engine.world import World, eventually

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]

REFUSED = ProviderError(Failure.FORBIDDEN, "UnauthorizedOperation", "not these")


class Selective(PacedFirewalls):
    """Some credentials, by their Secret, are refused some calls; each costs a token all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses: dict[tuple[str, str], ProviderError] = {}

    def _ask(self, access: Access, target: Target, kind: str) -> None:
        assert access.credentials.secret is not None
        if error := self.refuses.get((access.credentials.secret[1], kind)):
            self.spend(target, kind)  # type: ignore[arg-type]
            raise error

    async def grant(
        self, access: Access, target: Target, rules: Sequence[NewRule], stamp: Stamp
    ) -> Mapping[Rule, GrantOutcome]:
        self._ask(access, target, "grants")
        return await super().grant(access, target, rules, stamp)

    async def revoke(self, access: Access, target: Target, ids: Sequence[str]) -> Mapping[str, RevokeOutcome]:
        self._ask(access, target, "revokes")
        return await super().revoke(access, target, ids)

    async def relabel(
        self, access: Access, target: Target, descriptions: Mapping[str, str]
    ) -> Mapping[str, RelabelOutcome]:
        self._ask(access, target, "relabels")
        return await super().relabel(access, target, descriptions)

    def sent_since(self, kind: str, second: float) -> int:
        return sum(each == kind and at >= second for at, each in self.sent)


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
        for name in "ab":
            secret(world, name, group)
        await asyncio.sleep(5)
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
