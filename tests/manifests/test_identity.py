"""Who asked is written by the API server, and what Gatepass reads back later is written by Gatepass alone."""

import json
import ssl
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from gatepass.core.types.common import ABANDON, CHANGED_BY, FINALIZER, REQUESTED_BY
from gatepass.core.types.session import Requester
from tests.manifests.tenants import (
    API,
    MERGE,
    WRITES_BINDINGS,
    WRITES_EVERYTHING,
    Cluster,
    Person,
    annotated,
    binding,
    may,
    refusal,
    resource,
    says,
    session,
    wait_until,
)


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> str:
    return cluster.namespace()


@pytest.fixture(scope="module")
def tenant(cluster: Cluster, namespace: str) -> Person:
    """May write everything of ours in the namespace, status too, as far as RBAC goes."""
    return cluster.person(namespace, WRITES_EVERYTHING)


def requester(created: dict[str, Any]) -> Requester:
    return Requester.model_validate(json.loads(created["metadata"]["annotations"][REQUESTED_BY]))


FORGED = json.dumps({"username": "sandbox-admin", "uid": "", "groups": ["system:masters"]})


def test_the_requester_is_stamped(tenant: Person) -> None:
    stamped = requester(tenant.create(session(), dry_run=True))
    assert stamped.username == tenant.username
    assert stamped.uid
    assert set(stamped.groups) == {
        "system:serviceaccounts",
        f"system:serviceaccounts:{tenant.namespace}",
        "system:authenticated",
    }


def test_a_forged_annotation_is_overwritten(tenant: Person) -> None:
    forged = annotated(session(), annotations={REQUESTED_BY: FORGED, "other": "stays"})
    created = tenant.create(forged, dry_run=True)
    assert requester(created).username == tenant.username
    assert created["metadata"]["annotations"]["other"] == "stays"


def test_a_name_with_quotes_stays_one_name(cluster: Cluster, namespace: str) -> None:
    strange = 'eve","groups":["system:masters"],"x":"\\'
    control_plane = cluster.control_plane
    request = urllib.request.Request(
        f"{control_plane.server}{API}/namespaces/{namespace}/accesssessions?dryRun=All",
        data=json.dumps(session()).encode(),
        headers={
            "Authorization": f"Bearer {control_plane.admin_token}",
            "Content-Type": "application/json",
            "Impersonate-User": strange,
            "Impersonate-Group": "system:masters",
        },
    )
    with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=control_plane.ca)) as answer:
        assert requester(json.load(answer)).username == strange


@pytest.fixture(scope="module")
def unstamped(cluster: Cluster) -> Iterator[str]:
    """A namespace that the stamping policy leaves out, as a cluster that does not know its kind would."""
    namespace = cluster.namespace(stamping="off")
    binding = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings/gatepass-stamp"

    def select(selector: dict[str, Any]) -> None:
        change = {"spec": {"matchResources": {"namespaceSelector": selector}}}
        cluster.api.request("PATCH", binding, change, MERGE)

    admin = cluster.admin(namespace)
    select({"matchExpressions": [{"key": "stamping", "operator": "DoesNotExist"}]})
    wait_until(lambda: "finalizers" not in admin.create(resource(), dry_run=True)["metadata"])
    yield namespace
    select({"matchExpressions": None})


def test_without_the_stamp_nobody_can_lie(cluster: Cluster, unstamped: str) -> None:
    person = cluster.person(unstamped, WRITES_EVERYTHING)
    says(refusal(person.create, session()), REQUESTED_BY, "got none", person.username)
    forged = annotated(session(), annotations={REQUESTED_BY: FORGED})
    says(refusal(person.create, forged), REQUESTED_BY, f"got {FORGED}", person.username)
    gatepass = cluster.gatepass(unstamped)
    cluster.grant(gatepass, WRITES_EVERYTHING, namespace=unstamped)
    says(refusal(gatepass.create, session()), REQUESTED_BY, "got none")


def test_without_the_stamp_the_truth_passes(cluster: Cluster, unstamped: str) -> None:
    person = cluster.person(unstamped, WRITES_EVERYTHING)
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    who = person.api.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review)["status"]["userInfo"]
    truth = json.dumps({key: who[key] for key in ("username", "uid", "groups")}, separators=(",", ":"))
    created = person.create(annotated(session(), annotations={REQUESTED_BY: truth}), dry_run=True)
    assert requester(created).username == person.username


def test_gatepass_may_name_somebody_else(cluster: Cluster, namespace: str) -> None:
    gatepass = cluster.gatepass(namespace)
    cluster.grant(gatepass, WRITES_EVERYTHING, namespace=namespace)
    theirs = json.dumps({"username": "gatepass:key:ci/pipeline", "groups": []})
    created = gatepass.create(annotated(session(), annotations={REQUESTED_BY: theirs}), dry_run=True)
    assert created["metadata"]["annotations"][REQUESTED_BY] == theirs
    assert requester(gatepass.create(session(), dry_run=True)).username == gatepass.username


def test_the_annotation_never_changes(tenant: Person, cluster: Cluster) -> None:
    tenant.create(session(name="stamped"))
    for value in (FORGED, None, ""):
        change = {"metadata": {"annotations": {REQUESTED_BY: value}}}
        for person in (tenant, cluster.admin(tenant.namespace), cluster.gatepass(tenant.namespace)):
            error = refusal(person.patch, "AccessSession", "stamped", change)
            says(error, REQUESTED_BY, "never changes", tenant.username)


def test_a_replacement_without_the_annotation_is_refused(tenant: Person) -> None:
    version = tenant.create(session(name="replaced"))["metadata"]["resourceVersion"]
    bare = annotated(session(name="replaced"), resourceVersion=version, finalizers=[FINALIZER])
    path = tenant.path("AccessSession", "replaced")
    says(refusal(tenant.api.request, "PUT", path, bare), REQUESTED_BY, "is now absent")


def changer(item: dict[str, Any]) -> str | None:
    stamp = item["metadata"]["annotations"].get(CHANGED_BY)
    return None if stamp is None else Requester.model_validate(json.loads(stamp)).username


def test_who_stops_a_session_or_moves_its_end_is_stamped(cluster: Cluster, tenant: Person) -> None:
    admin = cluster.admin(tenant.namespace)
    assert changer(tenant.create(session(name="changed"))) is None
    assert changer(tenant.patch("AccessSession", "changed", {"metadata": {"labels": {"a": "b"}}})) is None
    assert changer(tenant.patch("AccessSession", "changed", {"spec": {"reason": "run 42"}})) is None
    assert changer(tenant.patch("AccessSession", "changed", {"spec": {"duration": "2h"}})) == tenant.username
    not_after = {"spec": {"notAfter": "2036-11-22T18:00:00Z"}}
    assert changer(admin.patch("AccessSession", "changed", not_after)) == admin.username
    assert changer(tenant.patch("AccessSession", "changed", {"spec": {"reason": "other"}})) == admin.username
    assert changer(tenant.patch("AccessSession", "changed", {"spec": {"stop": True}})) == tenant.username
    # Nobody takes the place of who has stopped it.
    for spec in ({"duration": "3h"}, {"stop": True}):
        assert changer(admin.patch("AccessSession", "changed", {"spec": spec})) == tenant.username


def test_who_changed_a_session_cannot_be_forged(cluster: Cluster, tenant: Person) -> None:
    forged = {"metadata": {"annotations": {CHANGED_BY: FORGED}}}
    copied = tenant.create(annotated(session(name="unforged"), annotations={CHANGED_BY: FORGED}))
    assert changer(copied) is None
    for person in (tenant, cluster.admin(tenant.namespace)):
        says(refusal(person.patch, "AccessSession", "unforged", forged), CHANGED_BY, "it was absent")
    moved = tenant.patch("AccessSession", "unforged", {**forged, "spec": {"duration": "2h"}})
    assert changer(moved) == tenant.username
    for value in (FORGED, None, ""):
        change = {"metadata": {"annotations": {CHANGED_BY: value}}}
        says(refusal(tenant.patch, "AccessSession", "unforged", change), CHANGED_BY, tenant.username)


def test_gatepass_may_say_for_whom_it_changes_a_session(cluster: Cluster, tenant: Person) -> None:
    gatepass = cluster.gatepass(tenant.namespace)
    cluster.grant(gatepass, WRITES_EVERYTHING, namespace=tenant.namespace)
    tenant.create(session(name="by-key"))
    theirs = json.dumps({"username": "gatepass:key:ci/pipeline", "groups": []})
    change = {"metadata": {"annotations": {CHANGED_BY: theirs}}, "spec": {"duration": "2h"}}
    assert changer(gatepass.patch("AccessSession", "by-key", change)) == "gatepass:key:ci/pipeline"


def test_without_the_stamp_nobody_can_lie_about_a_change(cluster: Cluster, unchanged: str) -> None:
    person = cluster.person(unchanged, WRITES_EVERYTHING)
    person.create(session(name="bare"))
    lie = {"metadata": {"annotations": {CHANGED_BY: FORGED}}, "spec": {"stop": True}}
    says(refusal(person.patch, "AccessSession", "bare", lie), CHANGED_BY, f"is now {FORGED}")
    assert changer(person.patch("AccessSession", "bare", {"spec": {"stop": True}})) is None


def test_without_the_stamp_who_changes_a_key_has_to_say_so(cluster: Cluster, unchanged: str) -> None:
    """Or it would go on in the name of who made it."""
    person = cluster.person(unchanged, WRITES_BINDINGS, may("use", "db"))
    person.create(binding("db", name="silent"))
    change = {"spec": {"maxDuration": "2h"}}
    told = refusal(person.patch, "ApiKeyBinding", "silent", change)
    says(told, f"annotation {CHANGED_BY} must be", person.username, "got none")
    truth = str(told).partition(" must be ")[2].partition(", got none")[0]
    person.patch("ApiKeyBinding", "silent", {"metadata": {"annotations": {CHANGED_BY: truth}}, **change})
    person.patch("ApiKeyBinding", "silent", {"spec": {"revoked": True}})


def test_without_the_stamp_who_stops_or_revokes_need_not_say_so(cluster: Cluster, unchanged: str) -> None:
    """Though somebody is named who has changed it before."""
    rules = (WRITES_EVERYTHING, WRITES_BINDINGS, may("use", "db"))
    first, other = cluster.person(unchanged, *rules), cluster.person(unchanged, *rules)
    truth = first.create(session(name="named"))["metadata"]["annotations"][REQUESTED_BY]
    first.create(binding("db", name="named"))
    named = {"metadata": {"annotations": {CHANGED_BY: truth}}}
    first.patch("AccessSession", "named", {**named, "spec": {"duration": "2h"}})
    first.patch("ApiKeyBinding", "named", {**named, "spec": {"maxDuration": "2h"}})
    for kind, longer in (("AccessSession", {"duration": "3h"}), ("ApiKeyBinding", {"maxDuration": "3h"})):
        says(refusal(other.patch, kind, "named", {"spec": longer}), CHANGED_BY, other.username, first.username)
    unnamed = {"metadata": {"annotations": {CHANGED_BY: None}}, "spec": {"duration": "3h"}}
    says(refusal(other.patch, "AccessSession", "named", unnamed), CHANGED_BY, "is now absent")
    for kind, ends in (
        ("AccessSession", {"duration": "30m"}),
        ("AccessSession", {"stop": True}),
        ("ApiKeyBinding", {"revoked": True}),
    ):
        other.patch(kind, "named", {"spec": ends})


@pytest.fixture(scope="module")
def unchanged(cluster: Cluster) -> Iterator[str]:
    """A namespace that the policy about changes leaves out."""
    namespace = cluster.namespace(changing="off")
    binding = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings/gatepass-changed"

    def select(selector: dict[str, Any]) -> None:
        change = {"spec": {"matchResources": {"namespaceSelector": selector}}}
        cluster.api.request("PATCH", binding, change, MERGE)

    admin = cluster.admin(namespace)
    admin.create(session(name="probe"))
    select({"matchExpressions": [{"key": "changing", "operator": "DoesNotExist"}]})
    change = {"spec": {"stop": True}}
    wait_until(lambda: changer(admin.patch("AccessSession", "probe", change, dry_run=True)) is None)
    yield namespace
    select({"matchExpressions": None})


@pytest.mark.parametrize("item", [session(name="held"), resource("held")], ids=["session", "resource"])
def test_new_objects_are_held(tenant: Person, item: dict[str, Any]) -> None:
    created = tenant.create(annotated(item, finalizers=["example.com/theirs"]), dry_run=True)
    assert set(created["metadata"]["finalizers"]) == {"example.com/theirs", FINALIZER}


@pytest.mark.parametrize("item", [session(name="kept"), resource("kept")], ids=["session", "resource"])
def test_the_finalizer_goes_by_gatepass_only(cluster: Cluster, tenant: Person, item: dict[str, Any]) -> None:
    kind = item["kind"]
    tenant.create(item)
    tenant.patch(kind, "kept", {"metadata": {"finalizers": [FINALIZER, "example.com/theirs"]}})
    for left in ([], None, ["example.com/theirs"]):
        error = refusal(tenant.patch, kind, "kept", {"metadata": {"finalizers": left}})
        says(error, tenant.username, FINALIZER, f"{tenant.namespace}/kept", 'needs the verb "abandon"')
    cluster.gatepass(tenant.namespace).patch(kind, "kept", {"metadata": {"finalizers": []}})


@pytest.mark.parametrize("item", [session(name="left"), resource("left")], ids=["session", "resource"])
def test_who_may_abandon_may_take_the_finalizer_off(cluster: Cluster, tenant: Person, item: dict[str, Any]) -> None:
    kind, plural = item["kind"], tenant.path(item["kind"]).rsplit("/", 1)[-1]
    tenant.create(item)
    person = cluster.person(tenant.namespace, WRITES_EVERYTHING, may("abandon", "left", resource=plural))
    person.patch(kind, "left", {"metadata": {"finalizers": []}})


@pytest.mark.parametrize("item", [session(name="given-up"), resource("given-up")], ids=["session", "resource"])
def test_giving_up_needs_the_verb(cluster: Cluster, tenant: Person, item: dict[str, Any]) -> None:
    kind, plural = item["kind"], tenant.path(item["kind"]).rsplit("/", 1)[-1]
    given_up = annotated(item, annotations={ABANDON: "true"})
    words = (tenant.username, ABANDON, f"{tenant.namespace}/given-up", f'needs the verb "abandon" on {plural}')
    says(refusal(tenant.create, given_up, dry_run=True), *words)
    tenant.create(item)
    change = {"metadata": {"annotations": {ABANDON: "true"}}}
    says(refusal(tenant.patch, kind, "given-up", change), *words)
    person = cluster.person(tenant.namespace, WRITES_EVERYTHING, may("abandon", "given-up", resource=plural))
    person.patch(kind, "given-up", change)
    # Once it is there it is in nobody's way, and anybody may take it back.
    tenant.patch(kind, "given-up", {"metadata": {"labels": {"team": "web"}}})
    tenant.patch(kind, "given-up", {"metadata": {"annotations": {ABANDON: None}}})


@pytest.mark.parametrize("item", [session(name="told"), resource("told")], ids=["session", "resource"])
def test_nobody_but_gatepass_writes_a_status(cluster: Cluster, tenant: Person, item: dict[str, Any]) -> None:
    kind = item["kind"]
    tenant.create(item)
    status = {"status": {"observedGeneration": 7}}
    for person in (tenant, cluster.admin(tenant.namespace)):
        error = refusal(person.patch, kind, "told", status, subresource="status")
        says(error, person.username, "may not write the status", f"{tenant.namespace}/told", "gatepass-system:gatepass")
        assert "status" not in person.patch(kind, "told", status)
    gatepass = cluster.gatepass(tenant.namespace)
    told = {**tenant.get(kind, "told"), **status}
    written = gatepass.api.request("PUT", gatepass.path(kind, "told", "status"), told)
    assert written["status"]["observedGeneration"] == 7


def test_a_status_sent_with_a_new_object_is_dropped(tenant: Person) -> None:
    forged = {**session(), "status": {"endedAt": "2026-11-22T18:00:00Z"}}
    assert "status" not in tenant.create(forged, dry_run=True)


def test_writing_a_status_changes_nothing_else(cluster: Cluster, tenant: Person) -> None:
    tenant.create(session(name="only-status"))
    change = {"metadata": {"annotations": {REQUESTED_BY: FORGED}, "finalizers": []}, "status": {"phase": "Active"}}
    gatepass = cluster.gatepass(tenant.namespace)
    written = gatepass.patch("AccessSession", "only-status", change, subresource="status")
    assert requester(written).username == tenant.username
    assert written["metadata"]["finalizers"] == [FINALIZER]
