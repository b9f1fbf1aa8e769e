"""Ways to sign in: what is read anew, what is renewed, and what is never told."""

import asyncio
import logging
import secrets
from collections.abc import Iterator, Mapping

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import Access, Credentials, Granted, NewRule
from gatepass.core.rules import Rule
from gatepass.providers.aws_security_group import AwsSecurityGroups
from gatepass.sandbox.cloud import ACCOUNT, REGION, Cloud
from gatepass.sandbox.ec2.faults import Fault
from tests.conftest import AwsAccount
from tests.providers.worlds import STAMP, AwsWorld, Vault

OPERATOR = Access("aws", REGION, Credentials())
NEW = [NewRule(Rule("203.0.113.7/32", "tcp", 5432, 5432), "gatepass static for=ci/db")]


class Hours:
    """A monotonic clock that tests move on."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def hours() -> Hours:
    return Hours()


@pytest.fixture
def fresh(provider: AwsSecurityGroups, vault: Vault, hours: Hours) -> Iterator[AwsSecurityGroups]:
    """A provider that nobody has signed in with, on a clock of the test's."""
    del provider  # its environment is needed
    made = AwsSecurityGroups(vault, monotonic=hours)
    yield made
    made.close()


def role(aws: AwsAccount, external_id: str = "7d1f/gatepass/gatepass/team") -> Access:
    arn = f"arn:aws:iam::{aws.account}:role/gatepass"
    return Access("aws", aws.region, Credentials(role=arn, external_id=external_id))


async def refusal(provider: AwsSecurityGroups, access: Access) -> ProviderError:
    with pytest.raises(ProviderError) as found:
        await provider.identify(access)
    return found.value


async def test_the_operators_own_identity(provider: AwsSecurityGroups) -> None:
    assert await provider.identify(OPERATOR) == ACCOUNT


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({}, "aws_access_key_id"),
        ({"aws_secret_access_key": "s3cret"}, "aws_access_key_id"),
        ({"aws_access_key_id": "  ", "aws_secret_access_key": "s3cret"}, "aws_access_key_id"),
        ({"aws_access_key_id": "AKIA0000000000000001"}, "aws_secret_access_key"),
        ({"aws_access_key_id": "AKIA0000000000000001", "aws_secret_access_key": "s3c\nret"}, "aws_secret_access_key"),
        (
            {
                "aws_access_key_id": "AKIA0000000000000001",
                "aws_secret_access_key": "s",
                "aws_session_token": "s3cret é",
            },
            "aws_session_token",
        ),
    ],
)
async def test_what_is_wrong_with_a_secret_is_named_and_not_shown(
    provider: AwsSecurityGroups, vault: Vault, data: Mapping[str, str], named: str
) -> None:
    name = secrets.token_hex(4)
    vault.data["team", name] = data
    error = await refusal(provider, Access("aws", REGION, Credentials(secret=("team", name))))
    assert (error.failure, error.reason) == (Failure.FORBIDDEN, "SecretInvalid")
    assert named in error.message
    assert f"team/{name}" in error.message
    assert not any(value in str(error) for value in data.values() if value.strip() and value != "s")


async def test_spaces_around_a_key_do_no_harm(aws_world: AwsWorld, vault: Vault) -> None:
    secret = aws_world.access.credentials.secret
    assert secret is not None
    vault.data[secret] = {key: f" {value}\n" for key, value in vault.data[secret].items()}
    assert await aws_world.provider.identify(aws_world.access) == aws_world.aws.account


async def test_a_changed_secret_takes_effect_when_asked_anew(aws_world: AwsWorld, vault: Vault, cloud: Cloud) -> None:
    secret = aws_world.access.credentials.secret
    assert secret is not None
    await aws_world.provider.identify(aws_world.access)
    other = AwsAccount(cloud.endpoint_url, cloud.control)
    vault.data[secret] = {"aws_access_key_id": other.access_key, "aws_secret_access_key": other.secret_key}
    await aws_world.provider.inspect(aws_world.access, ["sg-1"])
    assert aws_world.calls()[-1]["access_key"] == aws_world.aws.access_key
    assert await aws_world.provider.identify(aws_world.access) == other.account


async def test_a_rotated_key_is_read_as_soon_as_the_old_one_is_refused(aws_world: AwsWorld, vault: Vault) -> None:
    aws, secret = aws_world.aws, aws_world.access.credentials.secret
    assert secret is not None
    target = aws_world.firewall()
    await aws_world.provider.identify(aws_world.access)
    new_key = f"AKIA{secrets.token_hex(8).upper()}"
    aws.control.set_credential(new_key, account=aws.account)
    vault.data[secret] = {**vault.data[secret], "aws_access_key_id": new_key}
    aws.control.set_credential(aws.access_key, account=aws.account, refused=True)
    (refused,) = (await aws_world.provider.grant(aws_world.access, target, NEW, STAMP)).values()
    assert getattr(refused, "failure", None) is Failure.FORBIDDEN
    (granted,) = (await aws_world.provider.grant(aws_world.access, target, NEW, STAMP)).values()
    assert isinstance(granted, Granted)


async def test_a_secret_that_is_taken_away_signs_in_no_more(aws_world: AwsWorld, vault: Vault) -> None:
    target = aws_world.firewall()
    await aws_world.provider.identify(aws_world.access)
    assert aws_world.access.credentials.secret is not None
    del vault.data[aws_world.access.credentials.secret]
    error = await refusal(aws_world.provider, aws_world.access)
    assert error.reason == "SecretNotFound"
    with pytest.raises(ProviderError, match="SecretNotFound"):
        await aws_world.provider.observe(aws_world.access, target)


async def test_a_refused_key_is_not_told_in_full(aws_world: AwsWorld) -> None:
    target = aws_world.firewall()
    aws_world.aws.control.set_credential(aws_world.aws.access_key, account=aws_world.aws.account, refused=True)
    error = await refusal(aws_world.provider, aws_world.access)
    outcomes = await aws_world.provider.grant(aws_world.access, target, NEW, STAMP)
    (outcome,) = outcomes.values()
    assert isinstance(outcome, ProviderError)
    for told in (error, outcome):
        assert told.failure is Failure.FORBIDDEN
        assert aws_world.aws.access_key not in str(told)
        assert aws_world.aws.secret_key not in str(told)


async def test_a_role_is_assumed_with_our_external_id(provider: AwsSecurityGroups, aws: AwsAccount) -> None:
    access = role(aws)
    assert access.credentials.role is not None
    aws.control.set_role(access.credentials.role, external_id=access.credentials.external_id)
    assert await provider.identify(access) == aws.account


async def test_a_role_that_does_not_trust_us_says_what_it_should_ask_for(
    provider: AwsSecurityGroups, aws: AwsAccount
) -> None:
    access = role(aws)
    assert access.credentials.role is not None
    aws.control.set_role(access.credentials.role, external_id="somebody else's")
    error = await refusal(provider, access)
    assert (error.failure, error.reason) == (Failure.FORBIDDEN, "RoleNotAssumed")
    assert access.credentials.role in error.message
    assert str(access.credentials.external_id) in error.message
    aws.control.set_role(access.credentials.role, external_id=access.credentials.external_id)
    assert await provider.identify(access) == aws.account, "it heals when the trust policy does"


async def test_a_role_is_renewed_well_before_it_ends(fresh: AwsSecurityGroups, aws: AwsAccount, hours: Hours) -> None:
    access, started = role(aws), aws.control.last()

    async def assumed_after(seconds: float) -> int:
        hours.seconds += seconds
        await fresh.inspect(access, ["sg-1"])
        calls = [entry for entry in aws.control.log(started) if entry.get("action") == "AssumeRole"]
        return sum(access.credentials.role in str(entry["params"]) for entry in calls)

    assert [await assumed_after(seconds) for seconds in (0, 60, 2900, 60, 2900, 60)] == [1, 1, 1, 2, 2, 2]


async def test_while_sts_is_away_a_role_works_until_it_ends(
    fresh: AwsSecurityGroups, aws: AwsAccount, hours: Hours
) -> None:
    access = role(aws)
    await fresh.inspect(access, ["sg-1"])
    aws.control.set_faults(Fault(kind="error", action="AssumeRole"))
    hours.seconds += 3100
    await fresh.inspect(access, ["sg-1"])
    hours.seconds += 600
    with pytest.raises(ProviderError) as found:
        await fresh.inspect(access, ["sg-1"])
    assert found.value.failure is Failure.RETRY
    aws.control.set_faults()
    await fresh.inspect(access, ["sg-1"])


async def test_a_role_that_aws_refuses_is_assumed_anew(provider: AwsSecurityGroups, aws: AwsAccount) -> None:
    access = role(aws)
    await provider.identify(access)
    aws.control.set_faults(Fault(kind="deny", action="Describe*", account=aws.account, times=1))
    with pytest.raises(ProviderError):
        await provider.inspect(access, ["sg-1"])
    started = aws.control.last()
    await provider.identify(access)
    await provider.identify(access)
    assert [entry["action"] for entry in aws.control.log(started)] == [
        "AssumeRole",
        "GetCallerIdentity",
        "GetCallerIdentity",
    ]


async def test_many_at_once_sign_in_once(fresh: AwsSecurityGroups, aws: AwsAccount) -> None:
    access, started = role(aws), aws.control.last()
    await asyncio.gather(*(fresh.inspect(access, ["sg-1"]) for _ in range(8)))
    assert [entry["action"] for entry in aws.control.log(started)].count("AssumeRole") == 1


async def test_without_any_identity_a_person_has_to_act(
    provider: AwsSecurityGroups, vault: Vault, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    del provider
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    nothing = str(tmp_path_factory.mktemp("aws") / "none")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, nothing)
    lonely = AwsSecurityGroups(vault)
    try:
        error = await refusal(lonely, OPERATOR)
        assert (error.failure, error.reason) == (Failure.FORBIDDEN, "NoCredentials")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAGATEPASSSANDBOX1")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        assert await lonely.identify(OPERATOR) == ACCOUNT
    finally:
        lonely.close()


async def test_no_secret_is_logged(aws_world: AwsWorld, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "gatepass")
    target = aws_world.firewall()
    outcomes = await aws_world.provider.grant(aws_world.access, target, NEW, STAMP)
    assert all(isinstance(outcome, Granted) for outcome in outcomes.values())
    assert aws_world.aws.secret_key not in caplog.text
