"""A namespace as an organisation of the REST API: its admin's token, its keys, its doors."""

import hashlib
from contextlib import ExitStack
from itertools import count
from typing import Any, Final

import httpx

from gatepass.core.keys import ENTROPY_BYTES, key_hash, make_key
from gatepass.sandbox.environment import NAMESPACE, SERVICE_ACCOUNT, Sandbox
from gatepass.sandbox.kubeapi import KubeApi
from tests.conftest import AwsAccount
from tests.e2e.tenant import Tenant, wait_for

ELSEWHERE: Final = "198.51.100.7"
BINDING: Final = "apikeybindings"
ALL_SCOPES: Final = ("sessions:read", "sessions:write", "resources:read", "audit:read")
_RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
_numbers = count(1)


class Organisation(Tenant):
    """Everything in it is made by the sandbox's admin; `person` calls the API as the admin of this namespace alone."""

    # What is stopped before it has a status, and then meets a restart, ends when reads have settled, after two minutes.
    end_seconds = 180.0

    def __init__(self, sandbox: Sandbox, account: AwsAccount, clients: ExitStack) -> None:
        super().__init__(clients.enter_context(sandbox.control_plane.api()), f"org-{next(_numbers)}")
        self._sandbox = sandbox
        self._account = account
        self._clients = clients
        self.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        self.token = self.member("admin")
        self.person = self.caller(Authorization=f"Bearer {self.token}")
        wait_for(lambda: self.person.get("/resources").status_code == 200, "the rights of the admin")

    def member(self, role: str) -> str:
        """A token of a new service account with one of the cluster's own roles in the namespace."""
        name = f"member-{next(_numbers)}"
        home = f"namespaces/{self.namespace}"
        self.api.request("POST", f"/api/v1/{home}/serviceaccounts", {"metadata": {"name": name}})
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
        subject = {"kind": "ServiceAccount", "name": name, "namespace": self.namespace}
        body = {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}
        self.api.request("POST", f"{_RBAC}/{home}/rolebindings", body)
        return self._sandbox.control_plane.account_token(self.namespace, name)

    def caller(self, address: str = ELSEWHERE, **headers: str) -> httpx.Client:
        """Somebody who calls from there, by the proxy that tests are."""
        port = self._sandbox.env["GATEPASS_API_PORT"]
        given = {"X-Forwarded-For": address, **headers}
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", headers=given, timeout=60, trust_env=False)
        return self._clients.enter_context(client)

    def by(self, key: str, address: str = ELSEWHERE) -> httpx.Client:
        """Somebody who shows a key."""
        return self.caller(address, **{"X-API-Key": key})

    def key(self, *scopes: str, name: str = "", **spec: Any) -> tuple[str, str]:
        """A key with these scopes, or all, and the name of its binding; made as POST /api-keys makes it."""
        name = name or f"key-{next(_numbers)}"
        text = make_key(hashlib.sha256(f"{self.namespace}/{name}".encode()).digest() + bytes(ENTROPY_BYTES - 32))
        self.bind(name, keyHash=key_hash(text), scopes=list(scopes or ALL_SCOPES), **spec)
        caller = self.by(text, (spec.get("allowedCIDRs") or [ELSEWHERE])[0].partition("/")[0])
        wait_for(lambda: caller.get("/auth/me").status_code == 200, f"{name} works")
        return text, name

    def bind(self, name: str, **spec: Any) -> dict[str, Any]:
        """Create an ApiKeyBinding."""
        body = {"apiVersion": "gatepass.dev/v1alpha1", "kind": "ApiKeyBinding", "metadata": {"name": name}}
        return self.api.request("POST", self.path(BINDING), {**body, "spec": spec})

    def door(self, name: str = "db", **more: Any) -> tuple[str, str]:
        """A new security group behind a ProtectedResource: the id of the resource, and that of the group."""
        ec2 = self._account.client("ec2")
        made = ec2.create_security_group(GroupName=f"rest-{next(_numbers)}", Description="rest")["GroupId"]
        self.resource(made, name=name, **more)
        self.until_condition("protectedresources", name, "Ready")
        uid = self.get("protectedresources", name)["metadata"]["uid"]
        wait_for(lambda: self.person.get(f"/resources/{uid}").status_code == 200, f"{name} is known")
        return uid, made

    def open_to(self, group: str) -> set[str]:
        """The sources of all rules of a group."""
        found = self._sandbox.ec2.rules(group, account=self._account.account, region=self._account.region)
        return {rule.get("cidrIpv4") or rule["cidrIpv6"] for rule in found[group] or []}

    def sibling(self) -> KubeApi:
        """Another connection of the sandbox's admin, for another thread."""
        return self._sandbox.control_plane.api()

    def as_member(self) -> KubeApi:
        """A connection of the admin of this namespace alone, as kubectl has it."""
        return self._sandbox.control_plane.api(self.token)

    def gatepass(self) -> KubeApi:
        """A connection of Gatepass's own account."""
        return self._sandbox.control_plane.api(self._sandbox.control_plane.account_token(NAMESPACE, SERVICE_ACCOUNT))

    def binder(self, *names: str) -> httpx.Client:
        """Who may create bindings, and use these resources only."""
        token = self.member("view")
        account = f"member-{next(_numbers)}"
        home = f"{_RBAC}/namespaces/{self.namespace}"
        ours = {"apiGroups": ["gatepass.dev"]}
        rules = [
            {**ours, "resources": [BINDING], "verbs": ["create", "patch", "list"]},
            {**ours, "resources": ["protectedresources"], "resourceNames": list(names), "verbs": ["use"]},
        ]
        self.api.request("POST", f"{home}/roles", {"metadata": {"name": account}, "rules": rules})
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account}
        who = self.caller(Authorization=f"Bearer {token}")
        wait_for(lambda: who.get("/api-keys").status_code == 200, "the rights of a viewer")
        _, _, _, name = who.get("/auth/me").json()["email"].split(":")
        subject = {"kind": "ServiceAccount", "name": name, "namespace": self.namespace}
        body = {"metadata": {"name": account}, "roleRef": reference, "subjects": [subject]}
        self.api.request("POST", f"{home}/rolebindings", body)
        return who

    def leave(self) -> None:
        """Delete everything."""
        self.api.request("DELETE", self.path(BINDING))
        super().leave()
