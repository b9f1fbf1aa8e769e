"""The topology of the emulator, read as the operator reads it."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from gatepass.core.ports import Access, Credentials
from gatepass.egress.aws_topology import AwsTopology
from gatepass.providers.aws_security_group import AwsSecurityGroups
from gatepass.sandbox.cloud import Cloud
from tests.conftest import AwsAccount
from tests.egress.vpc import Vpc
from tests.providers.worlds import Vault, aws_provider


@pytest.fixture(scope="module")
def vault() -> Vault:
    """The Secrets that the provider reads."""
    return Vault()


@pytest.fixture(scope="module")
def provider(cloud: Cloud, vault: Vault) -> Iterator[AwsSecurityGroups]:
    """What calls EC2."""
    with aws_provider(cloud, vault) as made:
        yield made


class Clock:
    """Seconds that a test moves; no two readings are alike."""

    now = 1000.0

    def __call__(self) -> float:
        self.now += 0.000001
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock of the topology."""
    return Clock()


@pytest.fixture
def topology(aws: AwsAccount, provider: AwsSecurityGroups, vault: Vault, clock: Clock) -> AwsTopology:
    """What is found in an account of its own, signed in to by the keys in a Secret."""
    secret = ("team", aws.account)
    vault.data[secret] = {"aws_access_key_id": aws.access_key, "aws_secret_access_key": aws.secret_key}

    async def describe(region: str, action: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        return await provider.describe(Access("aws", region, Credentials(secret=secret)), action, parameters)

    return AwsTopology(describe, clock)


@pytest.fixture
def vpc(aws: AwsAccount) -> Vpc:
    """A new VPC in that account."""
    return Vpc(aws.client("ec2"))
