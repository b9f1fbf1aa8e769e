"""The verb `use`: who may name a resource in a session, wherever it is and whether or not it is there."""

import pytest

from tests.manifests.tenants import WRITES_SESSIONS, Cluster, Person, may, refusal, resource, says, session, wait_until


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> str:
    return cluster.namespace()


@pytest.fixture(scope="module")
def person(cluster: Cluster, namespace: str) -> Person:
    """May use `db` and `later`, none of which exists, and nothing else."""
    return cluster.person(namespace, WRITES_SESSIONS, may("use", "db", "later"))


def refused(person: Person, key: str) -> tuple[str, ...]:
    return (
        f'user "{person.username}" may not use ProtectedResource {key}: needs the verb "use" on protectedresources',
    )


def test_who_may_use_it_may_name_it(person: Person) -> None:
    person.create(session("db", "later"), dry_run=True)
    person.create(session({"name": "db", "namespace": person.namespace}), dry_run=True)


def test_who_may_not_may_not(person: Person) -> None:
    error = refusal(person.create, session("db", "cache"), dry_run=True)
    assert error.status == 403
    says(error, *refused(person, f"{person.namespace}/cache"))


def test_each_of_all_references_counts(cluster: Cluster, namespace: str) -> None:
    names = [f"door-{number}" for number in range(32)]
    owner = cluster.person(namespace, WRITES_SESSIONS, may("use", *names))
    owner.create(session(*names), dry_run=True)
    for index in range(32):
        some = [*names[:index], "other", *names[index + 1 :]]
        error = refusal(owner.create, session(*some), dry_run=True)
        says(error, *refused(owner, f"{namespace}/other"))


def test_a_grant_here_is_none_elsewhere(cluster: Cluster, person: Person) -> None:
    platform = cluster.namespace()
    there = session({"name": "db", "namespace": platform})
    says(refusal(person.create, there, dry_run=True), *refused(person, f"{platform}/db"))
    cluster.grant(person, may("use", "db"), namespace=platform)
    person.create(there, dry_run=True)


def test_it_may_be_created_afterwards_and_changes_nothing(cluster: Cluster, person: Person) -> None:
    says(refusal(person.create, session("young"), dry_run=True), *refused(person, f"{person.namespace}/young"))
    cluster.admin(person.namespace).create(resource("young"))
    # At once, when admission's own list of resources may not have it yet.
    says(refusal(person.create, session("young"), dry_run=True), *refused(person, f"{person.namespace}/young"))


def test_lengthening_needs_it_too(cluster: Cluster, namespace: str, person: Person) -> None:
    person.create(session(name="theirs", duration="1h", notAfter="2036-11-22T18:00:00Z"))
    guest = cluster.person(namespace, WRITES_SESSIONS)

    def change(who: Person, **spec: object) -> None:
        who.patch("AccessSession", "theirs", {"spec": spec}, dry_run=True)

    says(refusal(change, guest, duration="2h"), *refused(guest, f"{namespace}/db"))
    change(person, duration="2h")
    for shorter in ({"duration": "59m"}, {"stop": True}, {"notAfter": "2036-11-22T17:00:00Z"}, {"reason": "tests"}):
        change(guest, **shorter)
    change(guest, duration="60m")  # the same in other words
    guest.patch("AccessSession", "theirs", {"metadata": {"labels": {"team": "web"}}}, dry_run=True)


def test_gatepass_itself_is_exempt(cluster: Cluster, namespace: str) -> None:
    gatepass = cluster.gatepass(namespace)
    cluster.grant(gatepass, WRITES_SESSIONS, namespace=namespace)
    assert not gatepass.allowed("use", "protectedresources", "db")
    gatepass.create(session("db"), dry_run=True)


@pytest.mark.parametrize(("role", "use"), [("view", False), ("edit", False), ("admin", True)])
def test_the_roles_of_the_cluster(cluster: Cluster, role: str, use: bool) -> None:
    namespace = cluster.namespace()
    person = cluster.person(namespace)
    cluster.bind(person, role)
    wait_until(lambda: person.allowed("get", "accesssessions"))
    assert person.allowed("create", "accesssessions") == (role != "view")
    assert person.allowed("create", "protectedresources") == use
    assert person.allowed("use", "protectedresources", "db") == use
    assert not person.allowed("abandon", "protectedresources", "db")
    assert not person.allowed("patch", "accesssessions/status")


def test_an_admin_of_the_namespace_may_grant_it(cluster: Cluster) -> None:
    namespace = cluster.namespace()
    person = cluster.person(namespace)
    cluster.bind(person, "admin")
    wait_until(lambda: person.allowed("use", "protectedresources", "db"))
    rules = {"metadata": {"name": "use-db"}, "rules": [may("use", "db")]}
    person.api.request("POST", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles", rules)
    more = {"metadata": {"name": "abandon-db"}, "rules": [may("abandon", "db")]}
    says(
        refusal(person.api.request, "POST", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles", more),
        "attempting to grant RBAC permissions not currently held",
    )
