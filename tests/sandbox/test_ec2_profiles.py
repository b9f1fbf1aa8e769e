"""What a bare boto3 client sees under each profile of faults: no retries, nothing of Gatepass."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from typer.testing import CliRunner

from gatepass.cli import app
from gatepass.sandbox.ec2.faults import Facts, Fault, Faults
from gatepass.sandbox.ec2.others import OTHER_KEY
from gatepass.sandbox.ec2.profiles import PROFILES, profile
from tests.conftest import AwsAccount
from tests.sandbox.aws import addresses, cidrs, new_group, tcp
from tests.sandbox.test_ec2_faults import AUTHORIZE, truth

SEED = 7
MANY = 500
QUOTA = {"ServiceCode": "vpc", "QuotaCode": "L-0EA8095F"}


class Bare:
    """One group, and a client that calls once and notes what it is told."""

    def __init__(self, aws: AwsAccount, names: str = "none") -> None:
        self.aws, self.ec2 = aws, aws.client("ec2")
        self.group = new_group(self.ec2)
        self.before = aws.control.last()
        aws.control.set_faults(*profile(names), seed=SEED)

    def in_its_time(self, names: str) -> None:
        """Put a profile's faults in force for good, instead of for some seconds now and then."""
        self.aws.control.set_faults(*(fault.model_copy(update={"of_every": None}) for fault in profile(names)))

    def told(self, call: Callable[..., Any], **params: Any) -> str:
        """`ok`, AWS's error code, or the kind of the lost connection."""
        try:
            call(**params)
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        except BotoCoreError as error:
            return type(error).__name__
        return "ok"

    def open(self, cidr: str) -> str:
        """Put a rule."""
        return self.told(
            self.ec2.authorize_security_group_ingress, GroupId=self.group, IpPermissions=tcp(cidr, description="bare")
        )

    def read(self) -> str:
        """Read the rules."""
        wanted = [{"Name": "group-id", "Values": [self.group]}]
        return self.told(self.ec2.describe_security_group_rules, Filters=wanted)

    def log(self) -> list[dict[str, Any]]:
        """The calls since the faults came."""
        return self.aws.control.log(self.before)


def test_none_has_only_the_token_buckets_of_aws(aws: AwsAccount) -> None:
    bare = Bare(aws)
    told = [bare.open("203.0.113.7/32")]
    while told[-1] != "RequestLimitExceeded":
        assert len(told) < MANY, "the bucket of Authorize never runs dry"
        told.append(bare.open("203.0.113.7/32"))
    assert told[0] == "ok"
    assert len(told) > 50
    assert set(told[1:-1]) == {"InvalidPermission.Duplicate"}, "a refusal costs a token too"


def test_throttles_in_their_time(aws: AwsAccount) -> None:
    bare = Bare(aws)
    bare.in_its_time("throttles")
    told = Counter(bare.read() for _ in range(40))
    assert told.keys() == {"ok", "RequestLimitExceeded"}
    assert told["RequestLimitExceeded"] > told["ok"]


@pytest.mark.parametrize(
    ("name", "second", "lasts"), [("throttles", 12, 6), ("denied", 26, 15), ("expired", 14, 6), ("quota", 15, 6)]
)
def test_what_comes_and_goes(name: str, second: float, lasts: float) -> None:
    clock = [1000.0]
    faults = Faults(lambda: clock[0])
    faults.replace(profile(name), SEED)
    facts = Facts("ec2", AUTHORIZE, "1", "r", "k", (), None)

    def strikes() -> bool:
        return any(faults.strike(facts) for _ in range(20)) and (name != "quota" or faults.quota("1", "r") == 10)

    assert not strikes(), "not at once"
    clock[0] += second
    assert strikes()
    clock[0] += lasts
    assert not strikes()


def test_slow_calls_take_up_to_five_seconds_before_the_effect_or_after_it(aws: AwsAccount) -> None:
    faults = Faults()
    faults.replace(PROFILES["slow"].faults, SEED)
    facts = Facts("ec2", AUTHORIZE, "1", "r", "k", (), None)
    struck = [faults.strike(facts) for _ in range(400)]
    assert {len(each) for each in struck} == {1}
    drawn = [strike.seconds for (strike,) in struck]
    assert min(drawn) < 0.1 < 1 < max(drawn)
    assert all(0.05 <= seconds <= 5 for seconds in drawn)
    bare = Bare(aws, "slow")
    assert [bare.open(cidr) for cidr in addresses(4)] == ["ok"] * 4
    met = {fault for call in bare.log() for fault in call.get("faults", ())}
    assert met == {"latency-before", "latency-after"}


def test_a_late_answer_is_about_a_rule_that_is_there_already(aws: AwsAccount) -> None:
    bare = Bare(aws)
    aws.control.set_faults(Fault(kind="latency", action=AUTHORIZE, seconds=30, when="after"))
    hasty = aws.client("ec2", config=bare.ec2.meta.config.merge(type(bare.ec2.meta.config)(read_timeout=0.5)))
    told = bare.told(hasty.authorize_security_group_ingress, GroupId=bare.group, IpPermissions=tcp("203.0.113.7/32"))
    assert told == "ReadTimeoutError"
    assert truth(aws, bare.group) == {"203.0.113.7/32"}
    (last,) = (call for call in bare.log() if call["action"] == AUTHORIZE)
    assert (last["effect"], last["late_ms"]) == ("ok", 30_000)
    _, _, under_way = aws.control.follow(0)
    assert {"group": bare.group, "action": AUTHORIZE} in under_way, "its answer is still held up"


def test_errors_come_before_the_effect_and_after_it(aws: AwsAccount) -> None:
    bare = Bare(aws, "errors")
    told = {cidr: bare.open(cidr) for cidr in addresses(40)}
    there = truth(aws, bare.group)
    assert {cidr in there for cidr, code in told.items() if code == "InternalError"} == {False}
    assert {cidr in there for cidr, code in told.items() if code == "Unavailable"} == {True}
    assert set(told.values()) == {"ok", "InternalError", "Unavailable"}


def test_resets_lose_the_answer_and_not_always_the_rule(aws: AwsAccount) -> None:
    bare = Bare(aws, "resets")
    told = {cidr: bare.open(cidr) for cidr in addresses(40)}
    there = truth(aws, bare.group)
    assert set(told.values()) == {"ok", "ConnectionClosedError"}
    assert {cidr in there for cidr, code in told.items() if code != "ok"} == {True, False}


def test_lag_shows_the_rules_as_they_were(aws: AwsAccount) -> None:
    bare = Bare(aws, "lag")
    assert bare.open("203.0.113.7/32") == "ok"
    assert cidrs(bare.ec2, bare.group) == set()
    assert bare.open("203.0.113.7/32") == "InvalidPermission.Duplicate"
    aws.control.set_faults()
    assert cidrs(bare.ec2, bare.group) == {"203.0.113.7/32"}


def test_vanish_deletes_two_groups_for_good(aws: AwsAccount) -> None:
    bare = Bare(aws, "vanish")
    others = [new_group(bare.ec2) for _ in range(2)]
    for number, cidr in enumerate(addresses(45)):
        bare.group = others[number % 2]
        bare.open(cidr)
    assert [aws.control.rules(group, account=aws.account)[group] for group in others] == [None, None]
    assert bare.open("203.0.113.7/32") == "InvalidGroup.NotFound"
    assert bare.read() == "ok", "a read by filter just finds nothing"
    deleted = [call for call in bare.log() if call["action"] == "DeleteSecurityGroup"]
    assert {call["access_key"] for call in deleted} == {OTHER_KEY}


def test_denied_in_the_middle(aws: AwsAccount) -> None:
    bare = Bare(aws)
    assert bare.read() == "ok"
    bare.in_its_time("denied")
    assert bare.read() == bare.open("203.0.113.7/32") == "UnauthorizedOperation"
    assert truth(aws, bare.group) == set()


def test_expired_credentials_are_refused_by_every_service_in_its_words(aws: AwsAccount) -> None:
    bare = Bare(aws)
    bare.in_its_time("expired")
    sts, quotas = aws.client("sts"), aws.client("service-quotas")
    assert bare.read() == "RequestExpired"
    assert bare.told(sts.get_caller_identity) == "ExpiredToken"
    assert bare.told(quotas.get_service_quota, **QUOTA) == "ExpiredTokenException"


def test_a_lowered_quota_refuses_more_and_takes_nothing_away(aws: AwsAccount) -> None:
    bare = Bare(aws)
    quotas = aws.client("service-quotas")
    assert [bare.open(cidr) for cidr in addresses(12)] == ["ok"] * 12

    def value() -> str:
        return str(int(quotas.get_service_quota(**QUOTA)["Quota"]["Value"]))

    bare.in_its_time("quota")
    assert value() == "10"
    assert bare.open("203.0.113.7/32") == "RulesPerSecurityGroupLimitExceeded"
    assert len(truth(aws, bare.group)) == 12
    aws.control.set_faults()
    assert value() == "60"
    assert bare.open("203.0.113.7/32") == "ok"


def test_meddling_is_done_by_another_key_and_ends_in_duplicates_and_lost_rules(aws: AwsAccount) -> None:
    bare = Bare(aws, "meddling")
    told = {cidr: bare.open(cidr) for cidr in addresses(48)}
    assert set(told.values()) == {"ok", "InvalidPermission.Duplicate"}
    edits = [call for call in bare.log() if call["access_key"] == OTHER_KEY]
    assert {call["action"] for call in edits} == {
        AUTHORIZE,
        "RevokeSecurityGroupIngress",
        "UpdateSecurityGroupRuleDescriptionsIngress",
    }
    ours = {id_ for call in bare.log() if call["access_key"] == aws.access_key for id_ in call.get("made", ())}
    assert ours & {id_ for call in edits for id_ in call.get("removed", ())}, "now and then a rule of ours goes"
    # The log alone tells what is there: the observer lives on that.
    there: dict[str, str] = {}
    for call in bare.log():
        there.update(zip(call.get("made", ()), (rule["source"] for rule in call.get("rules", ())), strict=False))
        for id_ in call.get("removed", ()):
            del there[id_]
    assert sorted(there.values()) == sorted(truth(aws, bare.group))


def test_several_at_once(aws: AwsAccount) -> None:
    bare = Bare(aws, "resets, errors")
    assert {bare.open(cidr) for cidr in addresses(40)} >= {"ok", "InternalError", "ConnectionClosedError"}
    with pytest.raises(ValueError, match="no profile of EC2 faults 'gremlins'"):
        profile("errors,gremlins")


def test_a_seed_strikes_the_same_calls_again(aws: AwsAccount) -> None:
    def run(seed: int) -> list[str]:
        bare = Bare(aws)
        aws.control.set_faults(*profile("errors,resets"), seed=seed)
        return [bare.read() for _ in range(30)]

    first, again, other = run(1), run(1), run(2)
    assert first == again != other


def test_every_profile_is_named_by_the_help_and_taken_by_the_emulator(aws: AwsAccount) -> None:
    told = " ".join(CliRunner().invoke(app, ["sandbox", "run", "--help"], env={"COLUMNS": "400"}).output.split())
    for name in PROFILES:
        assert f"{name}," in told or f"{name}." in told
        aws.control.set_faults(*profile(name))
        assert len(aws.control.faults()) == len(PROFILES[name].faults)
