"""What the fence forbids is not sent, whatever was waited for before."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import Access, Credentials, Granted, NewRule
from gatepass.core.rules import Rule
from gatepass.providers.aws_clients import CALL_SECONDS
from gatepass.providers.aws_security_group import AwsSecurityGroups
from gatepass.providers.aws_switches import GRACE, AwsSwitches
from gatepass.sandbox.ec2.faults import Fault
from tests.conftest import AwsAccount
from tests.providers.schedules import Schedules
from tests.providers.worlds import OWNER, STAMP, AwsWorld, Vault

RULE = Rule("203.0.113.7/32", "tcp", 5432, 5432)
NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class Gate:
    """A fence that remembers what it was asked."""

    def __init__(self) -> None:
        self.open = True
        self.asked: list[float] = []

    def __call__(self, seconds: float) -> bool:
        self.asked.append(seconds)
        return self.open


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def world(aws: AwsAccount, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AwsWorld]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.endpoint_url)
    keys = {"aws_access_key_id": aws.access_key, "aws_secret_access_key": aws.secret_key}
    provider = AwsSecurityGroups(Vault({("team", "keys"): keys}), fence=gate, scheduler=True)
    yield AwsWorld(aws, provider, Access("aws", aws.region, Credentials(secret=("team", "keys"))))
    provider.close()


async def test_no_write_passes_a_closed_fence_and_every_read_does(world: AwsWorld, gate: Gate) -> None:
    target = world.firewall()
    outcomes = await world.provider.grant(world.access, target, [NewRule(RULE, "d")], STAMP)
    made = outcomes[RULE]
    assert isinstance(made, Granted)
    assert gate.asked == [CALL_SECONDS]
    before = world.held(target)
    calls = len(world.calls())
    gate.open = False

    other = NewRule(Rule("203.0.113.8/32", "tcp", 5432, 5432), "d")
    refused = (await world.provider.grant(world.access, target, [other], STAMP))[other.rule]
    kept = (await world.provider.revoke(world.access, target, [made.id]))[made.id]
    unlabelled = (await world.provider.relabel(world.access, target, {made.id: "e"}))[made.id]
    for outcome in (refused, kept, unlabelled):
        assert isinstance(outcome, ProviderError)
        assert (outcome.failure, outcome.reason) == (Failure.RETRY, "NotLeading")
    with pytest.raises(ProviderError, match="another replica"):
        await world.provider.tag(world.access, target, [made.id], OWNER)
    assert len(gate.asked) == 5
    assert len(world.calls()) == calls
    assert world.held(target) == before

    assert await world.provider.identify(world.access) == world.aws.account
    assert [rule.id for rule in await world.provider.observe(world.access, target)] == [made.id]
    assert len(gate.asked) == 5

    gate.open = True
    assert isinstance((await world.provider.grant(world.access, target, [other], STAMP))[other.rule], Granted)


async def test_no_switch_passes_a_closed_fence(world: AwsWorld, gate: Gate) -> None:
    target = world.firewall()
    held, other = world.put(target, RULE), "sgr-0123456789abcdef0"
    switches = AwsSwitches(world.provider.clients, [f"arn:aws:iam::{world.aws.account}:role/gatepass-switch"])
    await switches.arm(world.access, target, held, NOON, again=False)
    gate.open = False
    for call in (
        switches.arm(world.access, target, other, NOON, again=False),
        switches.arm(world.access, target, held, NOON + timedelta(hours=1), again=True),
        switches.disarm(world.access, target, held),
    ):
        with pytest.raises(ProviderError, match="another replica"):
            await call
    assert await switches.armed(world.access) == {held}
    assert Schedules(world.aws).run_due(NOON + GRACE) == [f"gatepass-{held}"], "it was not moved"


async def test_the_end_comes_after_what_is_under_way_and_nothing_after_it(world: AwsWorld) -> None:
    target, control = world.firewall(), world.aws.control
    control.set_faults(Fault(kind="latency", action="AuthorizeSecurityGroupIngress", group=target.id, seconds=0.5))
    granting = asyncio.create_task(world.provider.grant(world.access, target, [NewRule(RULE, "d")], STAMP))
    async with asyncio.timeout(10):
        while True:
            if any(fault["struck"] for fault in control.faults()):
                break
            await asyncio.sleep(0.01)
    granting.cancel()
    await asyncio.gather(granting, return_exceptions=True)
    await world.provider.end()
    assert [held.rule for held in world.held(target).values()] == [RULE]
    with pytest.raises(RuntimeError, match="shutdown"):
        await world.provider.observe(world.access, target)
