"""How little is done: nothing while nothing changes, and one write for each session that opens."""

import time
from collections.abc import Iterator

import pytest

from gatepass.sandbox.environment import Sandbox
from tests.e2e.firewall import Group
from tests.e2e.product import Product
from tests.e2e.tenant import Tenant, wait_for

QUIET_SECONDS = 5.0
SESSIONS = 20


@pytest.fixture(scope="module")
def seldom_resyncing(product: Product) -> Iterator[Product]:
    """An operator that looks at everything again every ten minutes, as by default."""
    with product.with_settings(GATEPASS_RESYNC_SECONDS="600"):
        yield product


def until_quiet(product: Product, sandbox: Sandbox) -> None:
    """Wait until nothing has been written, and nothing asked of EC2, for some seconds."""
    seen = (-1, -1)
    quiet_since = time.monotonic()

    def quiet() -> bool:
        nonlocal seen, quiet_since
        now = (len(product.writes()), sandbox.ec2.last())
        if now != seen:
            seen, quiet_since = now, time.monotonic()
        return time.monotonic() - quiet_since > QUIET_SECONDS

    wait_for(quiet, f"{QUIET_SECONDS:.0f} s without any write or EC2 call")


def test_nothing_is_done_while_nothing_changes(
    seldom_resyncing: Product, tenant: Tenant, group: Group, sandbox: Sandbox
) -> None:
    tenant.resource(group.id, staticCIDRs=[{"cidr": "198.51.100.0/28"}])
    names = [tenant.session(name=f"it-{n}", cidrs=(f"203.0.113.{n}/32",)) for n in range(SESSIONS)]
    for name in names:
        tenant.until_phase(name, "Active")
    tenant.until_stopped(names[0])
    until_quiet(seldom_resyncing, sandbox)


def test_one_write_opens_a_session(seldom_resyncing: Product, tenant: Tenant, group: Group, sandbox: Sandbox) -> None:
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(name="first"), "Active")
    for first in (10, 10 + SESSIONS):
        until_quiet(seldom_resyncing, sandbox)  # so that no look at everything is half done
        calls = sandbox.ec2.last()
        names = [tenant.session(name=f"it-{n}", cidrs=(f"203.0.113.{n}/32",)) for n in range(first, first + SESSIONS)]
        for name in names:
            tenant.until_phase(name, "Active")
        actions = [call["action"] for call in sandbox.ec2.log(calls)]
        if "GetCallerIdentity" not in actions:
            break  # else the look at everything that comes after a start fell into it, and the next is minutes away
    assert set(actions) == {"AuthorizeSecurityGroupIngress"}
    assert len(actions) <= SESSIONS
    written = [
        entry["objectRef"]["name"]
        for entry in seldom_resyncing.writes()
        if entry["objectRef"]["resource"] == "accesssessions" and entry["objectRef"]["namespace"] == tenant.namespace
    ]
    assert {name: written.count(name) for name in names} == dict.fromkeys(names, 1)
