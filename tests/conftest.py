"""Real parts for all tests: one control plane and one EC2 emulator for the whole run, one AWS account for each test."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from gatepass.sandbox.cloud import REGION, Cloud
from gatepass.sandbox.ec2.client import Ec2Control
from gatepass.sandbox.environment import Sandbox

_PLACES = {"simulation": -1, "chaos": 1, "e2e": 1, "observer": 1}
"""The simulation takes long; operators that are watched for being late come last, with nothing that computes beside."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the directories in this order."""
    items.sort(key=lambda item: _PLACES.get(item.path.relative_to(Path(__file__).parent).parts[0], 0))


@cache
def _session() -> Any:
    """One for all tests: each session reads EC2's model anew, which takes longer than most tests."""
    return boto3.Session()


@dataclass
class AwsAccount:
    """An AWS account of its own in an emulator: nobody else's groups, and full token buckets."""

    endpoint_url: str
    control: Ec2Control
    account: str = field(default_factory=lambda: f"{secrets.randbelow(9 * 10**11) + 10**11}")
    access_key: str = field(default_factory=lambda: f"AKIA{secrets.token_hex(8).upper()}")
    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(30))
    region: str = REGION
    _clients: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.control.set_credential(self.access_key, account=self.account)

    def client(self, service: str, **changed: Any) -> Any:
        """A boto3 client that does not retry; closed at the end of the test."""
        client = _session().client(
            service,
            **{
                "endpoint_url": self.endpoint_url,
                "region_name": self.region,
                "aws_access_key_id": self.access_key,
                "aws_secret_access_key": self.secret_key,
                "config": Config(retries={"total_max_attempts": 1}),
                **changed,
            },
        )
        self._clients.callback(client.close)
        return client

    def close(self) -> None:
        """Close the connections of all clients."""
        self._clients.close()


@pytest.fixture(scope="session")
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """The sandbox without the operator; its logs are kept if a test fails."""
    with Sandbox(operator=False) as running:
        yield running
        running.keep_logs = request.session.testsfailed > 0


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """The EC2 emulator alone, for tests that need no Kubernetes."""
    with Cloud(tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.fixture
def aws(cloud: Cloud) -> Iterator[AwsAccount]:
    """A fresh AWS account in `cloud`, where no faults are in force."""
    account = AwsAccount(cloud.endpoint_url, cloud.control)
    yield account
    account.close()
    cloud.control.set_faults()
