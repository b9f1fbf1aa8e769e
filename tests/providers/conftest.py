"""Both adapters of the `Provider` port, each in a world of its own for every test."""

from collections.abc import Iterator

import pytest

from gatepass.core.ports import Access, Credentials
from gatepass.providers.aws_security_group import AwsSecurityGroups
from gatepass.sandbox.cloud import Cloud
from tests.conftest import AwsAccount
from tests.providers.worlds import AwsWorld, MemoryWorld, Vault, World, aws_provider


@pytest.fixture(scope="module")
def vault() -> Vault:
    """The Secrets that the provider reads."""
    return Vault()


@pytest.fixture(scope="module")
def provider(cloud: Cloud, vault: Vault) -> Iterator[AwsSecurityGroups]:
    """One for a module: reading EC2's service model takes longer than any test."""
    with aws_provider(cloud, vault) as made:
        yield made


@pytest.fixture
def aws_world(aws: AwsAccount, provider: AwsSecurityGroups, vault: Vault) -> AwsWorld:
    """An account, signed in to by the keys in a Secret."""
    secret = ("team", aws.account)
    vault.data[secret] = {"aws_access_key_id": aws.access_key, "aws_secret_access_key": aws.secret_key}
    return AwsWorld(aws, provider, Access("aws", aws.region, Credentials(secret=secret)))


@pytest.fixture(params=["memory", "aws"])
def world(request: pytest.FixtureRequest) -> World:
    """Every test of the contract runs in both."""
    if request.param == "memory":
        return MemoryWorld()
    found: AwsWorld = request.getfixturevalue("aws_world")
    return found
