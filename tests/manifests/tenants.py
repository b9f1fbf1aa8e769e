"""A namespace of a real API server, and the people who work in it: what the tests of admission are written with."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import pytest

from gatepass.sandbox.controlplane import ControlPlane
from gatepass.sandbox.kubeapi import KubeApi, KubeApiError

API = "/apis/gatepass.dev/v1alpha1"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
MERGE = "application/merge-patch+json"
PATIENCE_SECONDS = 30.0
REFUSED = {400, 403, 422}

P = ParamSpec("P")
Rule = Mapping[str, Sequence[str]]
WRITES_SESSIONS: Rule = {
    "apiGroups": ["gatepass.dev"],
    "resources": ["accesssessions"],
    "verbs": ["get", "create", "update", "patch", "delete"],
}
WRITES_BINDINGS: Rule = {
    "apiGroups": ["gatepass.dev"],
    "resources": ["apikeybindings", "apikeybindings/status"],
    "verbs": ["get", "create", "update", "patch", "delete"],
}
WRITES_EVERYTHING: Rule = {
    "apiGroups": ["gatepass.dev"],
    "resources": ["accesssessions", "accesssessions/status", "protectedresources", "protectedresources/status"],
    "verbs": ["get", "create", "update", "patch", "delete", "use"],
}

_numbers = itertools.count(1)


def may(verb: str, *names: str, resource: str = "protectedresources") -> Rule:
    """A rule for a verb on objects of these names."""
    return {"apiGroups": ["gatepass.dev"], "resources": [resource], "resourceNames": list(names), "verbs": [verb]}


def session(*resources: str | Mapping[str, str], name: str = "it-1", **spec: Any) -> dict[str, Any]:
    """An AccessSession for one address, for the resource `db` unless others are named."""
    references = [{"name": each} if isinstance(each, str) else dict(each) for each in resources or ("db",)]
    return {
        "apiVersion": "gatepass.dev/v1alpha1",
        "kind": "AccessSession",
        "metadata": {"name": name},
        "spec": {"resources": references, "source": {"cidrs": ["203.0.113.7/32"]}, **spec},
    }


def resource(name: str = "db", policy: Mapping[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """A ProtectedResource of one group and one port."""
    return {
        "apiVersion": "gatepass.dev/v1alpha1",
        "kind": "ProtectedResource",
        "metadata": {"name": name},
        "spec": {
            "aws": {"region": "eu-central-1", "securityGroups": ["sg-0aaa"]},
            "ports": [{"port": 5432}],
            **({} if policy is None else {"policy": dict(policy)}),
            **spec,
        },
    }


def binding(*resources: str | Mapping[str, str], name: str = "ci", **spec: Any) -> dict[str, Any]:
    """An ApiKeyBinding with a Secret; for all of the namespace when no resource is named."""
    references = [{"name": each} if isinstance(each, str) else dict(each) for each in resources]
    named = {"resources": references} if references else {}
    return {
        "apiVersion": "gatepass.dev/v1alpha1",
        "kind": "ApiKeyBinding",
        "metadata": {"name": name},
        "spec": {"secretName": "ci-key", "scopes": ["sessions:write"], **named, **spec},
    }


def annotated(item: Mapping[str, Any], **metadata: Any) -> dict[str, Any]:
    """The object with more metadata."""
    return {**item, "metadata": {**item["metadata"], **metadata}}


class Person:
    """Somebody with a token, at work in one namespace."""

    def __init__(self, api: KubeApi, namespace: str, username: str) -> None:
        self.api = api
        self.namespace = namespace
        self.username = username

    def path(self, kind: str, name: str = "", subresource: str = "", namespace: str | None = None) -> str:
        """Where objects of a kind are."""
        plural = {
            "AccessSession": "accesssessions",
            "ProtectedResource": "protectedresources",
            "ApiKeyBinding": "apikeybindings",
        }[kind]
        parts = (f"{API}/namespaces/{namespace or self.namespace}/{plural}", name, subresource)
        return "/".join(part for part in parts if part)

    def create(self, item: Mapping[str, Any], *, dry_run: bool = False, strict: bool = True) -> dict[str, Any]:
        """Create it, as `kubectl create` does."""
        query = [f"fieldValidation={'Strict' if strict else 'Ignore'}", *(["dryRun=All"] if dry_run else [])]
        return self.api.request("POST", f"{self.path(item['kind'])}?{'&'.join(query)}", item)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """Read it."""
        return self.api.request("GET", self.path(kind, name))

    def patch(
        self, kind: str, name: str, change: Mapping[str, Any], *, subresource: str = "", dry_run: bool = False
    ) -> dict[str, Any]:
        """A merge patch."""
        query = "?dryRun=All" if dry_run else ""
        return self.api.request("PATCH", self.path(kind, name, subresource) + query, change, MERGE)

    def allowed(self, verb: str, plural: str, name: str = "", namespace: str | None = None) -> bool:
        """Does RBAC know by now that this person may?"""
        where = {"group": "gatepass.dev", "resource": plural, "name": name, "verb": verb}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {**where, "namespace": namespace or self.namespace}},
        }
        answer = self.api.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        return bool(answer["status"]["allowed"])


class Cluster:
    """The API server as its admin has it."""

    def __init__(self, control_plane: ControlPlane) -> None:
        self.control_plane = control_plane
        self._open: list[KubeApi] = []
        self.api = self._client()

    def close(self) -> None:
        """Close all connections."""
        for api in self._open:
            api.close()

    def wait_for_policies(self) -> None:
        """Return when the last of the policies is in force; the API server learns of them by a watch."""
        admin = self.admin("default")
        refusal_soon(admin.create, session("db", {"name": "db", "namespace": "default"}), dry_run=True)

    def _client(self, token: str | None = None) -> KubeApi:
        self._open.append(self.control_plane.api(token))
        return self._open[-1]

    def namespace(self, **labels: str) -> str:
        """A new namespace."""
        name = f"team-{next(_numbers)}"
        self.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        return name

    def admin(self, namespace: str) -> Person:
        """A cluster admin at work there."""
        return Person(self._client(), namespace, "sandbox-admin")

    def gatepass(self, namespace: str) -> Person:
        """Gatepass's own account at work there."""
        token = self.control_plane.account_token("gatepass-system", "gatepass")
        return Person(self._client(token), namespace, "system:serviceaccount:gatepass-system:gatepass")

    def person(self, namespace: str, *rules: Rule, elsewhere: str | None = None) -> Person:
        """A new service account of the namespace with these rules, there or `elsewhere`, and known to RBAC."""
        name = f"person-{next(_numbers)}"
        self.api.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})
        person = Person(
            self._client(self.control_plane.account_token(namespace, name)),
            namespace,
            f"system:serviceaccount:{namespace}:{name}",
        )
        self.grant(person, *rules, namespace=elsewhere or namespace)
        return person

    def bind(self, person: Person, role: str) -> None:
        """Bind one of the cluster's own roles in the person's namespace."""
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
        body = {"metadata": {"name": f"bind-{next(_numbers)}"}, "roleRef": reference, "subjects": [_subject(person)]}
        self.api.request("POST", f"{RBAC}/namespaces/{person.namespace}/rolebindings", body)

    def grant(self, person: Person, *rules: Rule, namespace: str) -> None:
        """Bind a new role with these rules; returns when RBAC knows them."""
        if not rules:
            return
        name = f"role-{next(_numbers)}"
        base = f"{RBAC}/namespaces/{namespace}"
        self.api.request("POST", f"{base}/roles", {"metadata": {"name": name}, "rules": list(rules)})
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        self.api.request(
            "POST",
            f"{base}/rolebindings",
            {"metadata": {"name": name}, "roleRef": reference, "subjects": [_subject(person)]},
        )
        last = rules[-1]
        named = next(iter(last.get("resourceNames", ())), "")
        wait_until(lambda: person.allowed(last["verbs"][-1], last["resources"][-1], named, namespace))


def _subject(person: Person) -> dict[str, str]:
    _, _, namespace, name = person.username.split(":")
    return {"kind": "ServiceAccount", "name": name, "namespace": namespace}


def wait_until(true: Callable[[], object]) -> None:
    """Poll; fails the test when it takes too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def refusal(attempt: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> KubeApiError:
    """The API server's refusal of a call that it must refuse."""
    with pytest.raises(KubeApiError) as caught:
        attempt(*args, **kwargs)
    assert caught.value.status in REFUSED, caught.value
    return caught.value


def refusal_soon(attempt: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> KubeApiError:
    """The same for a dry run that depends on an object made a moment ago, which admission learns of by a watch."""

    def refused() -> bool:
        try:
            attempt(*args, **kwargs)
        except KubeApiError as error:
            return error.status in REFUSED and "failed to configure policy" not in str(error)
        return False

    wait_until(refused)
    return refusal(attempt, *args, **kwargs)


def says(error: KubeApiError, *words: str) -> None:
    """The message has all of these words."""
    missing = [word for word in words if word not in str(error)]
    assert not missing, f"{missing} not in: {error}"
