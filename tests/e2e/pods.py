"""Pods and nodes of the sandbox, which has no kubelet: the test says what that would say."""

import json
from typing import Any

from tests.e2e.tenant import MERGE, SESSION, Tenant
from tests.egress.vpc import Machine


class Pods:
    """Pods of a tenant's namespace, and nodes for them."""

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._nodes: list[str] = []
        tenant.default_account()

    def node(self, provider_id: str, internal: str, *external: str) -> str:
        """A node that says of itself where it is; answers with its name."""
        name = f"node-{self._tenant.namespace}-{len(self._nodes)}"
        self._nodes.append(name)
        self._tenant.api.request(
            "POST", "/api/v1/nodes", {"metadata": {"name": name}, "spec": {"providerID": provider_id}}
        )
        self.locate(name, internal, *external)
        return name

    def locate(self, node: str, internal: str, *external: str) -> None:
        """Where a node says that it is, from now on."""
        addresses = [{"type": "InternalIP", "address": internal}]
        addresses += [{"type": "ExternalIP", "address": each} for each in external]
        path = f"/api/v1/nodes/{node}/status"
        self._tenant.api.request("PATCH", path, {"status": {"addresses": addresses}}, MERGE)

    def node_of(self, machine: Machine) -> str:
        """The node that an instance of EC2 is."""
        return self.node(machine.provider_id, machine.ipv6 or machine.private)

    def pending(self, name: str = "runner") -> None:
        """A pod that is not scheduled yet."""
        body = {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        self._tenant.api.request("POST", self._path(), body)

    def schedule(self, node: str, name: str = "runner") -> None:
        """As the scheduler does."""
        binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": node}}
        self._tenant.api.request("POST", f"{self._path(name)}/binding", binding)

    def set_status(self, name: str = "runner", **status: Any) -> None:
        """As the kubelet does."""
        self._tenant.api.request("PATCH", f"{self._path(name)}/status", {"status": status}, MERGE)

    def start(self, host: str, *ips: str, name: str = "runner") -> None:
        """It runs, with these addresses."""
        found = [{"ip": ip} for ip in ips]
        self.set_status(name, phase="Running", hostIP=host, hostIPs=[{"ip": host}], podIP=ips[0], podIPs=found)

    def run_on(self, machine: Machine, *ips: str, name: str = "runner") -> None:
        """A pod that runs on a node of its own, which is that instance."""
        self.pending(name)
        self.schedule(self.node_of(machine), name)
        host = machine.ipv6 or machine.private
        self.start(host, *(ips or (host,)), name=name)

    def delete(self, name: str = "runner") -> None:
        """Delete it at once."""
        self._tenant.api.request("DELETE", f"{self._path(name)}?gracePeriodSeconds=0")

    def leave(self) -> None:
        """Delete the nodes; pods go with the namespace."""
        for name in self._nodes:
            self._tenant.api.request("DELETE", f"/api/v1/nodes/{name}")

    def _path(self, name: str = "") -> str:
        return f"/api/v1/namespaces/{self._tenant.namespace}/pods" + (f"/{name}" if name else "")


def session(tenant: Tenant, name: str = "it-1", pod: str = "runner", **spec: Any) -> str:
    """A session for where a pod's traffic leaves from."""
    body = tenant.session_body(name=name, **spec)
    body["spec"]["source"] = {"pod": {"name": pod}}
    tenant.create(body)
    return name


def addresses(tenant: Tenant, name: str = "it-1") -> dict[str, str]:
    """The addresses in a session's status, with their evidence."""
    found = tenant.get(SESSION, name)["status"].get("source", {}).get("addresses", ())
    return {each["ip"]: each["evidence"] for each in found}


def asked_for_pods(log: str, namespace: str) -> list[str]:
    """The verbs with which pods of a namespace were asked for, by the audit log, each request once."""
    entries = [json.loads(line) for line in log.rpartition("\n")[0].splitlines() if f"/{namespace}/pods?" in line]
    return list(
        {each["auditID"]: each["verb"] for each in entries if "gatepass" in each["user"].get("username", "")}.values()
    )
