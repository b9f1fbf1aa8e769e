"""What people see: columns, describe, waits and Events."""

import json
import subprocess

import pytest

from gatepass.sandbox.environment import Sandbox
from tests.e2e.firewall import Group
from tests.e2e.tenant import ADDRESS, RESOURCE, SESSION, Tenant, wait_for

SESSION_MANIFEST = """
apiVersion: gatepass.dev/v1alpha1
kind: AccessSession
metadata: {name: it-1}
spec:
  resources: [{name: db}]
  duration: 10m
  source: {cidrs: ["203.0.113.7/32"]}
  reason: integration tests, run 42
"""


class Kubectl:
    """kubectl in the tenant's namespace."""

    def __init__(self, sandbox: Sandbox, tenant: Tenant) -> None:
        self._env = sandbox.env
        self._namespace = tenant.namespace

    def __call__(self, *words: str, text: str | None = None) -> str:
        """Its output; fails when it fails."""
        done = subprocess.run(
            ["kubectl", "--namespace", self._namespace, *words],
            env=self._env,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def table(self, *words: str) -> list[dict[str, str]]:
        """The rows of a table, by its headings; columns are two blanks apart."""
        head, *rows = [
            [cell.strip() for cell in line.split("  ") if cell.strip()] for line in self(*words).splitlines()
        ]
        return [dict(zip(head, row, strict=True)) for row in rows]


@pytest.fixture
def kubectl(sandbox: Sandbox, tenant: Tenant) -> Kubectl:
    return Kubectl(sandbox, tenant)


def test_apply_wait_get_stop(kubectl: Kubectl, tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    kubectl("apply", "--filename", "-", text=SESSION_MANIFEST)
    kubectl("wait", "--for=condition=Ready", "accesssession/it-1", "--timeout=30s")
    assert group.open_to() == {(ADDRESS, 5432)}
    (row,) = kubectl.table("get", "as", "--output", "wide")
    seen = tenant.get(SESSION, "it-1")
    assert row.pop("AGE")
    assert row == {
        "NAME": "it-1",
        "PHASE": "Active",
        "ADDRESS": "203.0.113.7",
        "RESOURCES": "1/1",
        "EXPIRES": seen["status"]["expiresAt"],
        "REQUESTER": "sandbox-admin",
        "REASON": "integration tests, run 42",
        "VERSION": seen["metadata"]["resourceVersion"],
    }
    kubectl("patch", "as/it-1", "--type=merge", "--patch", '{"spec": {"stop": true}}')
    kubectl("wait", "--for=jsonpath={.status.phase}=Cancelled", "as/it-1", "--timeout=30s")
    (row,) = kubectl.table("get", "as")
    assert (row["PHASE"], row["RESOURCES"]) == ("Cancelled", "0/1")
    kubectl("delete", "as/it-1", "--wait", "--timeout=30s")
    assert group.rules() == []


def test_waiting_for_settled_returns_when_all_is_broken(kubectl: Kubectl, tenant: Tenant) -> None:
    tenant.resource("sg-0123456789abcdef0")
    kubectl("apply", "--filename", "-", text=SESSION_MANIFEST)
    kubectl("wait", "--for=condition=Settled", "as/it-1", "--timeout=30s")
    told = kubectl("get", "as/it-1", "--output=jsonpath={.status.phase} {.status.resources[0].message}")
    assert told.startswith("Failed ")
    assert "sg-0123456789abcdef0" in told


def test_describe_tells_the_whole_story(kubectl: Kubectl, tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    tenant.until_stopped("it-1")
    wait_for(lambda: len(tenant.events("it-1")) == 2, "its Events")
    told = kubectl("describe", "as/it-1")
    rule = tenant.part("it-1")["rules"][0]
    for word in ("Cancelled", "Manual", "spec.stop was set", "SourceResolved", "RulesApplied", rule["id"], group.id):
        assert word in told, word
    events = told[told.index("\nEvents:") :]
    assert "Active" in events
    assert "open to 203.0.113.7" in events
    resource = kubectl("describe", "pr/db")
    for word in ("CredentialsValid", "TargetFound", "CapacityAvailable", "Ready", group.id):
        assert word in resource, word


def test_events_on_transitions_only(tenant: Tenant, group: Group) -> None:
    """Through resyncs, edits that change nothing that anybody waits for, a failure and its end."""
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    with group.fault(kind="deny"):
        tenant.until_condition(RESOURCE, "db", "Ready", "False")
    tenant.until_condition(RESOURCE, "db", "Ready")
    edited = tenant.edit("it-1", duration="2h")["metadata"]["generation"]
    tenant.until(SESSION, "it-1", lambda item: item["status"]["observedGeneration"] == edited, "seen again")
    tenant.until_stopped("it-1")
    # Events are written in order, so that one of a later object tells that all before it are there.
    tenant.until_phase(tenant.session(name="it-2"), "Active")
    wait_for(lambda: tenant.events("it-2"), "a later Event")
    assert [told.partition(":")[0] for told in tenant.events("it-1")] == ["Active", "Cancelled"]
    reasons = [told.partition(":")[0] for told in tenant.events("db")]
    assert reasons[0] == reasons[2] == "Ready"
    assert len(reasons) == 3, reasons


def test_the_printed_objects_are_complete(kubectl: Kubectl, tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    (row,) = kubectl.table("get", "pr", "--output", "wide")
    assert row["NAME"] == "db"
    items = json.loads(kubectl("get", "gatepass", "--output", "json"))["items"]
    assert {item["kind"] for item in items} == {"AccessSession", "ProtectedResource"}
