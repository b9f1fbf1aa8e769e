"""ApiKeyBindings: their schema, the verb `use`, and what nobody forges."""

import json
from typing import Any

import pytest

from gatepass.core.types.common import CHANGED_BY, FINALIZER, REQUESTED_BY
from tests.manifests.tenants import (
    WRITES_BINDINGS,
    WRITES_SESSIONS,
    Cluster,
    Person,
    annotated,
    binding,
    may,
    refusal,
    says,
    session,
)

DIGEST = "0123456789abcdef" * 4
READS_TRAIL = {"apiGroups": ["gatepass.dev"], "resources": ["auditlogs"], "verbs": ["list"]}
USES_ALL = {"apiGroups": ["gatepass.dev"], "resources": ["protectedresources"], "verbs": ["use"]}


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> str:
    return cluster.namespace()


@pytest.fixture(scope="module")
def owner(cluster: Cluster, namespace: str) -> Person:
    """May use everything in the namespace."""
    return cluster.person(namespace, WRITES_BINDINGS, USES_ALL)


@pytest.fixture(scope="module")
def person(cluster: Cluster, namespace: str) -> Person:
    """May use `db` and `cache`."""
    return cluster.person(namespace, WRITES_BINDINGS, may("use", "db", "cache"))


@pytest.fixture(scope="module")
def guest(cluster: Cluster, namespace: str) -> Person:
    """May use nothing."""
    return cluster.person(namespace, WRITES_BINDINGS)


def without_secret(**spec: Any) -> dict[str, Any]:
    item = binding(**spec)
    del item["spec"]["secretName"]
    return item


@pytest.mark.parametrize(
    "item",
    [
        binding(),
        binding("db", {"name": "cache", "namespace": "platform"}),
        without_secret(keyHash=DIGEST),
        binding(rotation={}),
        binding(rotation={"interval": "1m", "overlap": "10s"}),
        binding(expiresAt="2036-11-22T18:00:00Z"),
        binding(allowedCIDRs=["203.0.113.0/24", "2001:db8::/32"], maxDuration="2h"),
        binding(scopes=["sessions:read", "sessions:write", "resources:read", "audit:read"]),
    ],
)
def test_accepted(cluster: Cluster, namespace: str, item: dict[str, Any]) -> None:
    cluster.admin(namespace).create(item, dry_run=True)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (without_secret(), ("exactly one of secretName, oidc and keyHash",)),
        (binding(keyHash=DIGEST), ("exactly one of secretName, oidc and keyHash",)),
        (without_secret(keyHash="0" * 63), ("spec.keyHash",)),
        (without_secret(keyHash=DIGEST.upper()), ("spec.keyHash",)),
        (without_secret(keyHash=DIGEST, rotation={}), ("rotation goes with secretName",)),
        (binding(rotation={}, expiresAt="2036-11-22T18:00:00Z"), ("rotation goes with secretName",)),
        (binding(rotation={"interval": "1h", "overlap": "1h"}), ("overlap must be shorter", "1h is not shorter")),
        (binding(rotation={"interval": "30s"}), ("spec.rotation.interval",)),
        (binding(scopes=[]), ("spec.scopes",)),
        (binding(scopes=["sessions:*"]), ("spec.scopes[0]", "sessions:*")),
        (binding(scopes=["sessions:read", "sessions:read"]), ("spec.scopes[1]", "Duplicate")),
        (binding(allowedCIDRs=["203.0.113.7/24"]), ("spec.allowedCIDRs[0]", "203.0.113.7/24")),
        (binding(maxDuration="25h"), ("spec.maxDuration", "25h")),
        (binding(secretName="../other"), ("spec.secretName",)),
        (binding(*(f"door-{n}" for n in range(33))), ("spec.resources", "32")),
        (binding(surprise=1), ("surprise",)),
    ],
)
def test_refused(cluster: Cluster, namespace: str, item: dict[str, Any], words: tuple[str, ...]) -> None:
    says(refusal(cluster.admin(namespace).create, item, dry_run=True), *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"secretName": "other"}, ("is immutable", "ci-key")),
        ({"secretName": None, "keyHash": DIGEST}, ("immutable",)),
        ({"revoked": False}, ("revoked may not be set back",)),
        ({"revoked": None}, ("revoked may not be set back",)),
    ],
)
def test_what_never_changes(owner: Person, change: dict[str, Any], words: tuple[str, ...]) -> None:
    name = f"fixed-{abs(hash(str(change)))}"
    owner.create(binding(name=name, revoked=True))
    says(refusal(owner.patch, "ApiKeyBinding", name, {"spec": change}, dry_run=True), *words)


def test_binding_needs_use_of_each(cluster: Cluster, namespace: str, person: Person) -> None:
    person.create(binding("db", "cache"), dry_run=True)
    for resources in (("db", "other"), ({"name": "db", "namespace": "default"},)):
        says(refusal(person.create, binding(*resources), dry_run=True), "may not bind a key", 'needs the verb "use"')
    names = [f"door-{number}" for number in range(32)]
    many = cluster.person(namespace, WRITES_BINDINGS, may("use", *names))
    many.create(binding(*names), dry_run=True)
    for index in (0, 15, 16, 31):
        some = [*names[:index], "other", *names[index + 1 :]]
        says(refusal(many.create, binding(*some), dry_run=True), f"{namespace}/other")


def test_binding_all_needs_use_of_all(owner: Person, person: Person) -> None:
    owner.create(binding(), dry_run=True)
    says(refusal(person.create, binding(), dry_run=True), "every ProtectedResource of namespace", person.username)


def test_a_key_for_the_audit_trail_needs_the_right_to_read_it(cluster: Cluster, namespace: str, owner: Person) -> None:
    reader = cluster.person(namespace, WRITES_BINDINGS, USES_ALL, READS_TRAIL)
    told = binding(name="siem", scopes=["audit:read"])
    says(refusal(owner.create, told, dry_run=True), "audit:read", 'needs the verb "list" on auditlogs', owner.username)
    reader.create(told)
    change = {"spec": {"maxDuration": "3h"}}
    says(refusal(owner.patch, "ApiKeyBinding", "siem", change, dry_run=True), 'the verb "list" on auditlogs')
    owner.patch("ApiKeyBinding", "siem", {"spec": {"revoked": True}}, dry_run=True)


def test_changing_needs_it_too_and_revoking_never(owner: Person, person: Person, guest: Person) -> None:
    owner.create(binding("db", name="shared"))
    owner.create(binding(name="whole"))

    def change(who: Person, name: str, **spec: Any) -> None:
        who.patch("ApiKeyBinding", name, {"spec": spec}, dry_run=True)

    change(person, "shared", scopes=["sessions:read"])
    change(person, "shared", resources=[{"name": "cache"}])
    for spec in ({"scopes": ["sessions:read"]}, {"maxDuration": "3h"}, {"allowedCIDRs": ["198.51.100.0/24"]}):
        says(refusal(change, guest, "shared", **spec), "may not bind a key", "/db")
    for spec in ({"resources": None}, {"resources": [{"name": "other"}]}):
        says(refusal(change, person, "shared", **spec), "may not bind a key")
    says(refusal(change, person, "whole", scopes=["sessions:read"]), "every ProtectedResource")
    for name in ("shared", "whole"):
        change(guest, name, revoked=True)
        guest.patch("ApiKeyBinding", name, {"metadata": {"labels": {"team": "web"}}}, dry_run=True)
    owner.patch("ApiKeyBinding", "shared", {"spec": {"revoked": True}})
    # What was revoked never comes back, also not under cover of another change.
    says(refusal(change, person, "shared", revoked=False, resources=[{"name": "cache"}]), "revoked may not be set back")


def test_nobody_forges_the_status_of_a_key(cluster: Cluster, namespace: str, owner: Person) -> None:
    owner.create(binding(name="told"))
    forged = {"keys": [{"id": "x", "hash": DIGEST, "createdAt": "2026-11-22T18:00:00Z"}]}
    for person in (owner, cluster.admin(namespace)):
        error = refusal(person.patch, "ApiKeyBinding", "told", {"status": forged}, subresource="status")
        says(error, "may not write the status of apikeybindings", "gatepass-system:gatepass")
    assert "status" not in owner.create({**binding(name="sent"), "status": forged}, dry_run=True)


FORGED = '{"username":"gatepass:key:ci/ci","uid":"1","groups":[]}'


def stamped(item: dict[str, Any], annotation: str) -> str | None:
    stamp = item["metadata"].get("annotations", {}).get(annotation)
    return None if stamp is None else str(json.loads(stamp)["username"])


def test_who_binds_a_key_is_stamped(cluster: Cluster, namespace: str, owner: Person, guest: Person) -> None:
    """Who made it, and who changed it last; the operator asks what he may use."""
    admin = cluster.admin(namespace)
    made = owner.create(annotated(binding(name="whose"), annotations={CHANGED_BY: FORGED, "other": "stays"}))
    assert (stamped(made, REQUESTED_BY), stamped(made, CHANGED_BY)) == (owner.username, None)
    assert made["metadata"]["annotations"]["other"] == "stays"
    assert FINALIZER not in made["metadata"].get("finalizers", [])

    def changer(who: Person, change: dict[str, Any]) -> str | None:
        item = who.patch("ApiKeyBinding", "whose", change)
        assert stamped(item, REQUESTED_BY) == owner.username
        return stamped(item, CHANGED_BY)

    assert changer(guest, {"metadata": {"labels": {"team": "web"}}}) is None
    assert changer(admin, {"spec": {"scopes": ["sessions:read"]}}) == admin.username
    assert changer(owner, {"metadata": {"labels": {"team": "api"}}}) == admin.username
    assert changer(owner, {"spec": {"resources": [{"name": "db"}]}}) == owner.username
    assert changer(guest, {"spec": {"revoked": True}}) == guest.username
    assert changer(owner, {"spec": {"maxDuration": "1h"}}) == guest.username


def test_who_binds_a_key_cannot_be_forged(cluster: Cluster, namespace: str, owner: Person) -> None:
    made = owner.create(annotated(binding(name="unforged"), annotations={REQUESTED_BY: FORGED}))
    assert stamped(made, REQUESTED_BY) == owner.username
    for person in (owner, cluster.admin(namespace)):
        for annotation, words in ((REQUESTED_BY, "never changes"), (CHANGED_BY, "it was absent")):
            change = {"metadata": {"annotations": {annotation: FORGED}}}
            says(refusal(person.patch, "ApiKeyBinding", "unforged", change), annotation, words)
    change = {"metadata": {"annotations": {CHANGED_BY: FORGED}}, "spec": {"maxDuration": "1h"}}
    assert stamped(owner.patch("ApiKeyBinding", "unforged", change), CHANGED_BY) == owner.username
    for value in (FORGED, None, ""):
        change = {"metadata": {"annotations": {CHANGED_BY: value}}}
        says(refusal(owner.patch, "ApiKeyBinding", "unforged", change), CHANGED_BY, owner.username)


def test_a_tenant_is_never_stamped_as_a_key(cluster: Cluster, namespace: str) -> None:
    tenant = cluster.person(namespace, WRITES_SESSIONS, may("use", "db"))
    forged = annotated(session(name="forged"), annotations={REQUESTED_BY: FORGED})
    assert "gatepass:key:" not in tenant.create(forged)["metadata"]["annotations"][REQUESTED_BY]
    change = {"metadata": {"annotations": {REQUESTED_BY: FORGED}}}
    says(refusal(tenant.patch, "AccessSession", "forged", change), "never changes")
    says(refusal(cluster.admin(namespace).patch, "AccessSession", "forged", change), "never changes")


def test_only_gatepass_says_what_it_saw(cluster: Cluster, namespace: str) -> None:
    seen = session(name="seen", source={"request": {"addresses": ["203.0.113.10"]}})
    tenant = cluster.person(namespace, WRITES_SESSIONS, may("use", "db"))
    for person in (tenant, cluster.admin(namespace)):
        says(refusal(person.create, seen, dry_run=True), "spec.source.request is set by Gatepass's REST API only")
    gatepass = cluster.gatepass(namespace)
    stamped = annotated(seen, annotations={REQUESTED_BY: FORGED}, finalizers=[FINALIZER])
    assert gatepass.create(stamped, dry_run=True)["metadata"]["annotations"][REQUESTED_BY] == FORGED


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"cidrs": ["203.0.113.7/32"], "request": {"addresses": ["203.0.113.10"]}},
        {"request": {}},
        {"request": {"addresses": []}},
        {"request": {"addresses": ["203.0.113.10/32"]}},
        {"request": {"addresses": ["203.0.113.010"]}},
        {"request": {"addresses": ["2001:db8:0::1"]}},
        {"request": {"addresses": ["203.0.113.1", "203.0.113.2", "203.0.113.3"]}},
    ],
)
def test_sources_that_are_none(cluster: Cluster, namespace: str, source: dict[str, Any]) -> None:
    item = annotated(session(source=source), annotations={REQUESTED_BY: FORGED}, finalizers=[FINALIZER])
    says(refusal(cluster.gatepass(namespace).create, item, dry_run=True), "spec.source")
