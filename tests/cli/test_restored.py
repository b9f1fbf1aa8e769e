"""etcd as it was before: sessions that have ended since are back, and the operator is told to end them."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gatepass.sandbox.cloud import ACCOUNT
from gatepass.sandbox.environment import Sandbox
from tests.conftest import AwsAccount
from tests.e2e.firewall import Firewall
from tests.e2e.product import RESYNC_SECONDS, Product
from tests.e2e.replicas import Replica
from tests.e2e.tenant import SESSION, Tenant, in_seconds, wait_for, wait_for_the_time
from tests.observer.observer import Observer, install_id

NAMESPACE = "restored"
SETTLED_SECONDS = 180.0
"""Reads may miss for two minutes what was put before a start."""


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """One whose past nobody else needs."""
    with Sandbox(operator=False) as sandbox:
        yield sandbox


def copied(sandbox: Sandbox, source: Path, to: Path) -> None:
    """While nobody writes."""
    sandbox.control_plane.stop()
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(source, to)
    sandbox.control_plane.start()
    sandbox.wait_until_served()


def test_what_has_ended_since_the_backup_stays_closed(sandbox: Sandbox, tmp_path: Path) -> None:
    plane, product = sandbox.control_plane, Product(sandbox)
    etcd, backup = plane.folder / "etcd", tmp_path / "etcd"
    with ExitStack() as stack:
        api = stack.enter_context(plane.api())
        stack.callback(product.stop)
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        tenant, owner = Tenant(api, NAMESPACE), install_id(sandbox)
        account = AwsAccount(sandbox.endpoint_url, sandbox.ec2, account=ACCOUNT)
        stack.callback(account.close)
        product.start()
        with Observer(sandbox, owner, RESYNC_SECONDS) as observer:
            group = Firewall(account, observer, owner).group()
            tenant.resource(group.id)
            for number, name in enumerate(("over", "live")):
                tenant.until_phase(tenant.session(name=name, cidrs=(f"203.0.113.{number}/32",)), "Active")
            assert observer.take_breaches() == []
        product.stop()
        api.close()
        copied(sandbox, etcd, backup)

        product.start()
        tenant.until_stopped("over")
        tenant.until_phase(tenant.session(name="since", cidrs=("203.0.113.9/32",)), "Active")
        product.stop()
        api.close()
        copied(sandbox, backup, etcd)
        assert tenant.get(SESSION, "over")["status"]["phase"] == "Active", "it is back"
        assert not tenant.exists(SESSION, "since")
        assert group.open_to() == {("203.0.113.1/32", 5432), ("203.0.113.9/32", 5432)}

        last, cutoff = sandbox.ec2.last(), in_seconds(0)
        wait_for_the_time(cutoff)
        settings = {"GATEPASS_RESYNC_SECONDS": str(RESYNC_SECONDS)}
        restored = Replica(sandbox, "restored", options=["--end-sessions-created-before", cutoff], **settings)
        stack.callback(restored.kill)
        restored.start()  # not under the observer: it knows of no option that ends what nobody has ended
        wait_for(lambda: tenant.phases() == {"Expired"}, "all have ended", seconds=SETTLED_SECONDS)
        wait_for(lambda: group.rules() == [], "nothing is left")
        calls = {call["action"] for call in sandbox.ec2.log(last)}
        assert "RevokeSecurityGroupIngress" in calls
        assert "AuthorizeSecurityGroupIngress" not in calls, "nothing opens again, not even for a moment"
