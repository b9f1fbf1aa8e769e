"""Operator and REST API in one process, in the shared sandbox."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from gatepass.sandbox.cloud import ACCOUNT
from gatepass.sandbox.environment import Sandbox
from tests.conftest import AwsAccount
from tests.e2e.product import Product
from tests.rest.organisation import Organisation


@pytest.fixture(scope="package")
def service(sandbox: Sandbox) -> Iterator[Product]:
    """`gatepass serve`; nobody is held back, but by the tests of that."""
    service = Product(sandbox, "serve", GATEPASS_RATE_LIMIT="1000000")
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="package")
def found(service: Product, sandbox: Sandbox) -> Iterator[Callable[[], Organisation]]:
    """Founds organisations, and takes them down again."""
    account = AwsAccount(sandbox.endpoint_url, sandbox.ec2, account=ACCOUNT)
    with ExitStack() as clients:
        clients.callback(account.close)

        def one() -> Organisation:
            organisation = Organisation(sandbox, account, clients)
            clients.callback(organisation.leave)
            return organisation

        yield one


@pytest.fixture(scope="module")
def org(found: Callable[[], Organisation]) -> Organisation:
    """One for each module."""
    return found()


@pytest.fixture(scope="module")
def other(found: Callable[[], Organisation]) -> Organisation:
    """Another one."""
    return found()


@pytest.fixture(scope="module")
def account(sandbox: Sandbox) -> Iterator[AwsAccount]:
    """The operator's own AWS account, as another user of it."""
    account = AwsAccount(sandbox.endpoint_url, sandbox.ec2, account=ACCOUNT)
    yield account
    account.close()
