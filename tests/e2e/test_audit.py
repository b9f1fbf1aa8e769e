"""The audit trail of the real operator: complete, provable after every crash, and in nobody's way."""

import asyncio
import subprocess
import sys
from collections import Counter
from pathlib import Path

from gatepass.audit.chain import Sealed
from gatepass.audit.trail import Trail
from gatepass.sandbox.environment import Sandbox
from tests.e2e.firewall import Group
from tests.e2e.product import Product
from tests.e2e.tenant import Tenant, wait_for


def audit(sandbox: Sandbox, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gatepass", "audit", *words]
    return subprocess.run(command, env=sandbox.env, capture_output=True, text=True, check=False)


def told(sandbox: Sandbox, namespace: str) -> list[Sealed]:
    """What the trail tells of a namespace, the oldest first."""

    async def ask() -> list[Sealed]:
        trail = Trail(sandbox.env["GATEPASS_DATABASE_URL"], Path(sandbox.env["GATEPASS_AUDIT_KEY_FILE"]))
        page = await trail.page(namespace, size=1000)
        await trail.close()
        return sorted(page.entries, key=lambda entry: entry.seq)

    return asyncio.run(ask())


def events(sandbox: Sandbox, namespace: str) -> Counter[str]:
    return Counter(entry.event for entry in told(sandbox, namespace))


def test_a_session_is_told_from_its_request_to_its_end(
    tenant: Tenant, product: Product, sandbox: Sandbox, group: Group
) -> None:
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    tenant.until_stopped("it-1")
    wait_for(lambda: events(sandbox, tenant.namespace)["RULE_REMOVED"] == 1, "the last entry")
    assert [entry.event for entry in told(sandbox, tenant.namespace)] == [
        "RESOURCE_CREATED",
        "SESSION_STARTED",
        "SESSION_ACTIVATED",
        "RULE_APPLIED",
        "SESSION_STOPPED",
        "RULE_REMOVED",
    ]
    verified = audit(sandbox, "verify")
    assert (verified.returncode, verified.stderr) == (0, "")


def test_killed_in_the_middle_of_audit_writes(tenant: Tenant, product: Product, sandbox: Sandbox, group: Group) -> None:
    tenant.resource(group.id)
    many = 20
    for number in range(many):
        tenant.session(name=f"many-{number}", cidrs=(f"203.0.113.{number}/32",))
    wait_for(lambda: events(sandbox, tenant.namespace)["SESSION_ACTIVATED"] > 0, "the first entries")
    product.kill()
    assert audit(sandbox, "verify").returncode == 0
    product.start()
    for number in range(many):
        tenant.until_phase(f"many-{number}", "Active")
    wait_for(lambda: events(sandbox, tenant.namespace)["RULE_APPLIED"] == many, "nothing is lost, or told twice")
    found = events(sandbox, tenant.namespace)
    assert (found["SESSION_STARTED"], found["SESSION_ACTIVATED"]) == (many, many)
    verified = audit(sandbox, "verify")
    assert verified.returncode == 0, verified.stderr
    assert "writers that have not ended in order" in verified.stdout


def test_where_it_is_required_and_away_nothing_opens_and_everything_closes(
    tenant: Tenant, product: Product, sandbox: Sandbox, group: Group, tmp_path: Path
) -> None:
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(name="early"), "Active")
    away = tmp_path / "later"
    with product.with_settings(GATEPASS_DATABASE_URL=f"sqlite:///{away}/audit.db", GATEPASS_AUDIT_REQUIRED="true"):
        tenant.session(name="late", cidrs=("203.0.113.8/32",))
        late = tenant.until_phase("late", "Failed")
        assert late["status"]["resources"][0]["reason"] == "AuditUnavailable"
        assert group.open_to() == {("203.0.113.7/32", 5432)}
        tenant.until_stopped("early")
        assert group.rules() == []
        away.mkdir()
        tenant.until_phase("late", "Active")
