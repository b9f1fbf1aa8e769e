"""How many calls are made, and what is told when their answers are lost: on the strict emulator."""

import asyncio
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import (
    Access,
    Credentials,
    Duplicate,
    Full,
    Gone,
    Granted,
    GrantOutcome,
    NewRule,
    Revoked,
    Unknown,
)
from gatepass.core.rules import Rule, Target
from gatepass.providers.aws_clients import AwsClients
from gatepass.providers.aws_security_group import AwsSecurityGroups
from gatepass.sandbox.ec2.faults import Fault
from tests.providers.worlds import STAMP, AwsWorld, Vault

GRANT, REVOKE = "AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"
RULES = [Rule(f"203.0.113.{host}/32", "tcp", 5432, 5432) for host in range(50)]
NEW = [NewRule(rule, "gatepass static for=ci/db") for rule in RULES]


async def test_many_rules_are_one_call_with_the_tag_in_it(aws_world: AwsWorld) -> None:
    target = aws_world.firewall()
    outcomes = await aws_world.provider.grant(aws_world.access, target, NEW, STAMP)
    assert all(isinstance(outcome, Granted) for outcome in outcomes.values())
    await aws_world.provider.revoke(
        aws_world.access, target, [o.id for o in outcomes.values() if isinstance(o, Granted)]
    )
    assert [len(aws_world.calls(action)) for action in (GRANT, REVOKE, "CreateTags")] == [1, 1, 0]


async def test_a_named_member_costs_one_call_more(aws_world: AwsWorld) -> None:
    target = aws_world.firewall()
    aws_world.put(target, RULES[3])
    before = len(aws_world.calls(GRANT))
    outcomes = await aws_world.provider.grant(aws_world.access, target, NEW, STAMP)
    assert isinstance(outcomes.pop(RULES[3]), Duplicate)
    assert [type(outcome) for outcome in outcomes.values()] == [Granted] * 49
    assert len(aws_world.held(target)) == 50
    assert len(aws_world.calls(GRANT)) - before == 2


async def test_a_full_group_is_found_out_in_few_calls(aws_world: AwsWorld) -> None:
    target = aws_world.firewall(limit=5)
    outcomes = await aws_world.provider.grant(aws_world.access, target, NEW, STAMP)
    assert sum(isinstance(outcome, Full) for outcome in outcomes.values()) == 45
    assert len(aws_world.calls(GRANT)) <= 10


async def test_a_rule_that_is_gone_costs_one_call_more(aws_world: AwsWorld) -> None:
    target = aws_world.firewall()
    outcomes = await aws_world.provider.grant(aws_world.access, target, NEW, STAMP)
    ids = [outcome.id for outcome in outcomes.values() if isinstance(outcome, Granted)]
    assert len(ids) == 50
    aws_world.take(target, ids[2])
    before = len(aws_world.calls(REVOKE))
    removed = await aws_world.provider.revoke(aws_world.access, target, ids)
    assert {id_: type(outcome) for id_, outcome in removed.items()} == {
        id_: Gone if id_ == ids[2] else Revoked for id_ in ids
    }
    assert aws_world.held(target) == {}
    assert len(aws_world.calls(REVOKE)) - before == 2


async def test_all_pages_are_read(aws_world: AwsWorld) -> None:
    target = aws_world.firewall(limit=1100)
    everything = [Rule(f"10.1.{i // 250}.{i % 250}/32", "udp", 53, 53) for i in range(1050)]
    outcomes = await aws_world.provider.grant(aws_world.access, target, [NewRule(r, "x") for r in everything], STAMP)
    assert all(isinstance(outcome, Granted) for outcome in outcomes.values())
    seen = await aws_world.provider.observe(aws_world.access, target)
    assert {rule.rule for rule in seen} == set(everything)
    assert len(aws_world.calls("DescribeSecurityGroupRules")) == 2


async def test_a_prefix_list_weighs_its_most_entries(aws_world: AwsWorld) -> None:
    target = aws_world.firewall()
    made = aws_world.ec2.create_managed_prefix_list(PrefixListName="office", MaxEntries=25, AddressFamily="IPv4")
    permission = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
    lists = [{"PrefixListId": made["PrefixList"]["PrefixListId"]}]
    aws_world.ec2.authorize_security_group_ingress(
        GroupId=target.id, IpPermissions=[{**permission, "PrefixListIds": lists}]
    )
    (seen,) = await aws_world.provider.observe(aws_world.access, target)
    assert (seen.rule, seen.weight) == (None, (25, 25))
    aws_world.aws.control.set_faults(
        Fault(kind="deny", action="DescribeManagedPrefixLists", account=aws_world.aws.account)
    )
    (seen,) = await aws_world.provider.observe(aws_world.access, target)
    assert (seen.rule, seen.weight) == (None, (1, 1))


@pytest.mark.parametrize("kind", ["reset", "error"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_lost_answer_leaves_a_grant_open(aws_world: AwsWorld, kind: str, when: str) -> None:
    target = aws_world.firewall()
    fault = Fault.model_validate({"kind": kind, "action": GRANT, "account": aws_world.aws.account, "when": when})
    aws_world.aws.control.set_faults(fault)
    outcomes = await aws_world.provider.grant(aws_world.access, target, NEW[:3], STAMP)
    assert [type(outcome) for outcome in outcomes.values()] == [Unknown] * 3
    assert len(aws_world.calls(GRANT)) == 1
    assert len(aws_world.held(target)) == (3 if when == "after" else 0)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_lost_answer_leaves_a_revoke_open(aws_world: AwsWorld, when: str) -> None:
    target = aws_world.firewall()
    outcomes = await aws_world.provider.grant(aws_world.access, target, NEW[:3], STAMP)
    ids = [outcome.id for outcome in outcomes.values() if isinstance(outcome, Granted)]
    fault = Fault.model_validate({"kind": "reset", "action": REVOKE, "account": aws_world.aws.account, "when": when})
    aws_world.aws.control.set_faults(fault)
    removed = await aws_world.provider.revoke(aws_world.access, target, ids)
    assert [type(outcome) for outcome in removed.values()] == [Unknown] * 3
    aws_world.aws.control.set_faults()
    again = await aws_world.provider.revoke(aws_world.access, target, ids)
    assert [type(outcome) for outcome in again.values()] == [Gone if when == "after" else Revoked] * 3
    assert aws_world.held(target) == {}


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        ({"kind": "reset"}, Failure.RETRY),
        ({"kind": "error"}, Failure.RETRY),
        ({"kind": "error", "code": "RequestLimitExceeded", "status": 503}, Failure.RETRY),
        ({"kind": "deny"}, Failure.FORBIDDEN),
    ],
)
async def test_a_read_that_fails_may_be_made_again(
    aws_world: AwsWorld, fault: dict[str, object], failure: Failure
) -> None:
    target = aws_world.firewall()
    aws_world.aws.control.set_faults(
        Fault.model_validate({"action": "Describe*", "account": aws_world.aws.account, **fault})
    )
    with pytest.raises(ProviderError) as found:
        await aws_world.provider.observe(aws_world.access, target)
    assert found.value.failure is failure
    with pytest.raises(ProviderError) as found:
        await aws_world.provider.inspect(aws_world.access, [target.id])
    assert found.value.failure is failure


async def test_without_the_permission_to_ask_the_quota_is_awss_default(aws_world: AwsWorld) -> None:
    target = aws_world.firewall(limit=100)
    denied = Fault(kind="deny", action="GetServiceQuota", account=aws_world.aws.account)
    aws_world.aws.control.set_faults(denied)
    facts = await aws_world.provider.inspect(aws_world.access, [target.id])
    assert getattr(facts[target.id], "limit", None) == 60
    aws_world.aws.control.set_faults()
    await aws_world.provider.identify(aws_world.access)
    facts = await aws_world.provider.inspect(aws_world.access, [target.id])
    assert getattr(facts[target.id], "limit", None) == 100
    aws_world.aws.control.set_faults(denied)
    facts = await aws_world.provider.inspect(aws_world.access, [target.id])
    assert getattr(facts[target.id], "limit", None) == 100, "what was known stays known"


async def test_a_refused_write_is_told_of_each_member(aws_world: AwsWorld) -> None:
    target = aws_world.firewall()
    aws_world.aws.control.set_faults(Fault(kind="deny", action=GRANT, account=aws_world.aws.account))
    outcomes = await aws_world.provider.grant(aws_world.access, target, NEW[:3], STAMP)
    assert [getattr(outcome, "failure", None) for outcome in outcomes.values()] == [Failure.FORBIDDEN] * 3
    assert len(aws_world.calls(GRANT)) == 1


async def test_what_is_not_wanted_any_more_is_left_out_of_the_next_call(aws_world: AwsWorld) -> None:
    """EC2 takes all of a call or nothing: what made it refuse the first one is no reason to put all others."""
    target = aws_world.firewall()
    aws_world.put(target, RULES[0])
    before = len(aws_world.calls(GRANT))
    outcomes = await aws_world.provider.grant(
        aws_world.access, target, NEW[:3], STAMP, lambda rule: rule != RULES[1] or len(aws_world.calls(GRANT)) == before
    )
    assert {rule: type(outcome) for rule, outcome in outcomes.items()} == {RULES[0]: Duplicate, RULES[2]: Granted}
    assert len(aws_world.calls(GRANT)) == before + 2


async def test_what_was_left_out_of_a_call_is_not_of_unknown_outcome_when_its_answer_is_lost(
    aws_world: AwsWorld,
) -> None:
    target = aws_world.firewall()
    aws_world.aws.control.set_faults(Fault(kind="reset", action=GRANT, account=aws_world.aws.account, when="after"))
    outcomes = await aws_world.provider.grant(aws_world.access, target, NEW[:2], STAMP, lambda rule: rule == RULES[1])
    assert {rule: type(outcome) for rule, outcome in outcomes.items()} == {RULES[1]: Unknown}


async def test_our_own_calls_are_never_throttled(aws_world: AwsWorld) -> None:
    targets = [aws_world.firewall() for _ in range(20)]
    # Makes the client, which on a busy machine takes seconds: our bucket would fill, and EC2's has not been asked yet.
    await aws_world.provider.observe(aws_world.access, targets[0])

    async def in_turn(target: Target, number: int) -> Mapping[Rule, GrantOutcome]:
        await asyncio.sleep(aws_world.provider.reserve(target, ["grants"])["grants"])
        return await aws_world.provider.grant(aws_world.access, target, NEW[number : number + 1], STAMP)

    for number in range(3):
        for outcomes in await asyncio.gather(*(in_turn(target, number) for target in targets)):
            assert all(isinstance(outcome, Granted) for outcome in outcomes.values())
    entries = aws_world.calls(GRANT)
    assert len(entries) == 60
    assert not [entry for entry in entries if entry.get("code")]


async def test_when_others_empty_the_bucket_the_call_may_be_made_again(aws_world: AwsWorld) -> None:
    target = aws_world.firewall()
    throttled = Fault(
        kind="error", action=GRANT, account=aws_world.aws.account, code="RequestLimitExceeded", status=503, times=1
    )
    aws_world.aws.control.set_faults(throttled)
    outcomes = await aws_world.provider.grant(aws_world.access, target, NEW[:1], STAMP)
    assert [getattr(outcome, "failure", None) for outcome in outcomes.values()] == [Failure.RETRY]
    await asyncio.sleep(aws_world.provider.reserve(target, ["grants"])["grants"])
    outcomes = await aws_world.provider.grant(aws_world.access, target, NEW[:1], STAMP)
    assert isinstance(outcomes[RULES[0]], Granted)


async def test_when_others_empty_the_bucket_the_targets_share_what_comes(aws_world: AwsWorld, vault: Vault) -> None:
    one, other = aws_world.firewall(), aws_world.firewall()
    at_a_stand = AwsSecurityGroups(vault, monotonic=lambda: 1000.0)
    try:
        for target in (one, other):
            await at_a_stand.grant(aws_world.access, target, NEW[:1], STAMP)
        assert at_a_stand.delay(one) == 0
        aws_world.aws.control.set_faults(
            Fault(kind="error", action=GRANT, account=aws_world.aws.account, code="RequestLimitExceeded", status=503)
        )
        await at_a_stand.grant(aws_world.access, other, NEW[1:2], STAMP)
        assert at_a_stand.delay(one) > 0
    finally:
        at_a_stand.close()


@pytest.fixture
def lonely(monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsSecurityGroups]:
    """A provider that reaches nobody, at a stand."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNREACHABLE00002")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    vault = Vault({("team", "keys"): {"aws_access_key_id": "AKIAUNREACHABLE00001", "aws_secret_access_key": "s"}})
    made = AwsSecurityGroups(vault, monotonic=lambda: 1000.0)
    yield made
    made.close()


LONELY = Access("aws", "eu-central-1", Credentials(secret=("team", "keys")))


async def failures(provider: AwsSecurityGroups, access: Access, at_a_time: int = 1) -> list[str]:
    """What becomes of so many calls."""
    told = await asyncio.gather(*(provider.regions(access) for _ in range(at_a_time)), return_exceptions=True)
    return [str(each) for each in told]


def held_up(told: list[str]) -> int:
    return sum("is asked again" in each for each in told)


async def test_where_nobody_listens_nothing_was_sent(aws_world: AwsWorld, lonely: AwsSecurityGroups) -> None:
    target = aws_world.firewall()
    with pytest.raises(ProviderError, match="NoConnection"):
        await lonely.identify(LONELY)
    outcomes = await lonely.grant(LONELY, target, NEW[:1], STAMP)
    assert [getattr(outcome, "reason", None) for outcome in outcomes.values()] == ["NoConnection"]


async def test_a_call_that_is_not_let_through_costs_no_token(lonely: AwsSecurityGroups) -> None:
    """Nothing would be left to ask with when a Region answers again."""
    bucket = lonely._pacing["", "eu-central-1"].bucket("DescribeRegions")
    before, told = bucket.tokens(1000.0), list[str]()
    for _ in range(4):
        told += await failures(lonely, LONELY, at_a_time=20)
    assert held_up(told) > 20
    assert before - bucket.tokens(1000.0) == len(told) - held_up(told)


async def test_who_cannot_sign_in_does_not_make_a_silent_region_answer(lonely: AwsSecurityGroups) -> None:
    """One tenant with a garbled Secret, tried every second, would have all threads held."""
    for _ in range(3):
        await failures(lonely, LONELY)
    garbled = replace(LONELY, credentials=Credentials(secret=("team", "garbled")))
    assert "SecretNotFound" in (await failures(lonely, garbled))[0]
    assert held_up(await failures(lonely, LONELY, at_a_time=20)) == 19


async def test_who_cannot_sign_in_as_sts_is_silent_does_not_make_ec2_silent(lonely: AwsSecurityGroups) -> None:
    role = replace(LONELY, credentials=Credentials(role="arn:aws:iam::111122223333:role/gatepass", external_id="7d1f"))
    for _ in range(3):
        assert "sts:AssumeRole: AWS cannot be reached" in (await failures(lonely, role))[0]
    assert held_up(await failures(lonely, LONELY, at_a_time=2)) == 0


@pytest.mark.usefixtures("lonely")
async def test_who_waits_while_another_one_signs_in_shares_what_he_hears() -> None:
    """One after the other they would hold up all workers, each for as long as STS may be silent."""
    asked, ticks = list[str](), itertools.count()

    def told_of(action: str, *_: object) -> None:
        asked.append(action)

    clients = AwsClients(Vault({}), 4, lambda _seconds: True, lambda: float(next(ticks)), told=told_of)
    role = replace(LONELY, credentials=Credentials(role="arn:aws:iam::111122223333:role/gatepass", external_id="7d1f"))
    try:
        calls = (clients.read(role, "sts:GetCallerIdentity", lambda _aws: None) for _ in range(8))
        told = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        clients.close()
    assert all(isinstance(each, ProviderError) for each in told)
    assert asked == ["sts:AssumeRole"]


async def test_a_second_call_that_has_no_token_is_left_to_the_next_pass(aws_world: AwsWorld, vault: Vault) -> None:
    target = aws_world.firewall()
    aws_world.put(target, RULES[0])
    at_a_stand = AwsSecurityGroups(vault, monotonic=lambda: 1000.0)
    try:
        for id_ in (target.id, *(f"sg-{number}" for number in range(300))):
            at_a_stand.reserve(replace(target, id=id_), ["grants"])
        async with asyncio.timeout(20):  # there is a token in 51 seconds
            outcomes = await at_a_stand.grant(aws_world.access, target, NEW[:2], STAMP)
    finally:
        at_a_stand.close()
    assert {rule: type(outcome) for rule, outcome in outcomes.items()} == {RULES[0]: Duplicate}
    assert at_a_stand.reserve(target, ["grants"])["grants"] == pytest.approx(51.4), "its place in the line is kept"


async def test_a_batch_that_is_refused_as_a_whole_gets_smaller_though_calls_are_scarce(
    aws_world: AwsWorld, vault: Vault
) -> None:
    """AWS does not say which rule is too many, and each pass has one token."""
    target = aws_world.firewall(limit=2)
    aws_world.put(target, RULES[0])
    at_a_stand = AwsSecurityGroups(vault, monotonic=lambda: 1000.0)
    bucket, put = at_a_stand._pacing[target.account, target.region].bucket(GRANT), []
    try:
        for _ in range(4):
            at_a_stand.reserve(target, [])
            while bucket.tokens(1000.0) < 1:
                bucket.give_back(1000.0)
            assert at_a_stand.reserve(target, ["grants"]) == {"grants": 0}
            while bucket.tokens(1000.0) > -10:
                bucket.take(1000.0)
            outcomes = await at_a_stand.grant(aws_world.access, target, NEW[1:9], STAMP)
            assert outcomes.keys() <= set(RULES[1:9])
            put.append(sum(isinstance(outcome, Granted) for outcome in outcomes.values()))
    finally:
        at_a_stand.close()
    assert put == [0, 0, 0, 1]
