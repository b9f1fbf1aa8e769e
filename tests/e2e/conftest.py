"""The operator in the shared sandbox, watched by the observer in every test."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from gatepass.core.types.session import AccessSessionStatus
from gatepass.sandbox.cloud import ACCESS_KEY, ACCOUNT
from gatepass.sandbox.environment import Sandbox
from tests.conftest import AwsAccount
from tests.e2e.credentials import Elsewhere
from tests.e2e.firewall import Firewall, Group
from tests.e2e.product import RESYNC_SECONDS, Product
from tests.e2e.tenant import Tenant
from tests.observer.observer import Observer, install_id
from tests.shape.conditions import assert_session_conditions

_numbers = count(1)


@pytest.fixture(scope="package")
def product(sandbox: Sandbox) -> Iterator[Product]:
    """The operator, for all e2e tests."""
    product = Product(sandbox)
    product.start()
    yield product
    product.stop()


@pytest.fixture(scope="package")
def owner(sandbox: Sandbox) -> str:
    """The install id that marks the operator's rules."""
    return install_id(sandbox)


@pytest.fixture(scope="package")
def observer(sandbox: Sandbox, product: Product, owner: str) -> Iterator[Observer]:
    """One observer for all e2e tests."""
    with Observer(sandbox, owner, RESYNC_SECONDS) as observer:
        yield observer


@pytest.fixture(autouse=True)
def _promise_kept(observer: Observer, sandbox: Sandbox) -> Iterator[None]:
    """Fails every test during which the promise was broken, or a status contradicted itself."""
    observer.catch_up()
    observer.take_statuses()
    yield
    sandbox.ec2.set_faults()
    breaches = observer.take_breaches()
    assert not breaches, "the promise was broken:\n" + "\n".join(f"  {breach}" for breach in breaches)
    for session in observer.take_statuses():
        assert_session_conditions(AccessSessionStatus.model_validate(session["status"]))


@pytest.fixture
def account(sandbox: Sandbox) -> Iterator[AwsAccount]:
    """The operator's own AWS account, as another user of it."""
    account = AwsAccount(sandbox.endpoint_url, sandbox.ec2, account=ACCOUNT)
    assert account.access_key != ACCESS_KEY
    yield account
    account.close()


@pytest.fixture
def firewall(account: AwsAccount, observer: Observer, owner: str) -> Firewall:
    """The security groups of the operator's own account."""
    return Firewall(account, observer, owner)


@pytest.fixture
def group(firewall: Firewall) -> Group:
    """A new, empty security group."""
    return firewall.group()


@pytest.fixture
def other_group(firewall: Firewall) -> Group:
    """Another one."""
    return firewall.group()


@pytest.fixture
def elsewhere(sandbox: Sandbox, observer: Observer, owner: str) -> Iterator[Elsewhere]:
    """Another AWS account."""
    account = AwsAccount(sandbox.endpoint_url, sandbox.ec2)
    key = AwsAccount(sandbox.endpoint_url, sandbox.ec2, account=account.account)
    yield Elsewhere(account, key, observer, owner)
    account.close()
    key.close()


@pytest.fixture
def tenant(sandbox: Sandbox, _promise_kept: None) -> Iterator[Tenant]:
    """Somebody in a new namespace, which is deleted at the end with everything in it."""
    with at_work(sandbox) as tenant:
        yield tenant


@pytest.fixture
def other_tenant(sandbox: Sandbox, _promise_kept: None) -> Iterator[Tenant]:
    """Somebody in another namespace."""
    with at_work(sandbox) as tenant:
        yield tenant


@contextmanager
def at_work(sandbox: Sandbox) -> Iterator[Tenant]:
    """A tenant in a namespace of its own."""
    name = f"e2e-{next(_numbers)}"
    with sandbox.control_plane.api() as api:
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        tenant = Tenant(api, name)
        yield tenant
        sandbox.ec2.set_faults()
        tenant.leave()
