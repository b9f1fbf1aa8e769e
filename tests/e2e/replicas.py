"""Two operators on one cluster and one account, each told from the other by its port and its access key."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from http import HTTPStatus
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from gatepass.kube.lease import EARLIER, identity
from gatepass.sandbox.cloud import ACCOUNT
from gatepass.sandbox.environment import Sandbox
from gatepass.sandbox.kubeapi import KubeApi, KubeApiError
from gatepass.sandbox.processes import Process, free_ports, is_ready
from tests.e2e.product import READY_SECONDS, RESYNC_SECONDS
from tests.e2e.tenant import Tenant, wait_for

LEASE = "/apis/coordination.k8s.io/v1/namespaces/gatepass-system/leases/gatepass"
_LEADS = [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "patch"]}]


def let_lead(api: KubeApi, namespace: str, account: str) -> None:
    """Let a service account, `<its namespace>/<its name>`, have Leases in the namespace."""
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "leads"}
    its_namespace, _, name = account.partition("/")
    subjects = [{"kind": "ServiceAccount", "namespace": its_namespace, "name": name}]
    api.request("POST", f"{path}/roles", {"metadata": {"name": "leads"}, "rules": _LEADS})
    api.request("POST", f"{path}/rolebindings", {"metadata": {"name": "leads"}, "subjects": subjects, "roleRef": role})


class Replica:
    """One operator, with the settings that it has by default, or that are given."""

    def __init__(
        self, sandbox: Sandbox, name: str, command: str = "operator", options: Sequence[str] = (), **settings: str
    ) -> None:
        self._sandbox = sandbox
        self._port, metrics_port, self.api_port = free_ports(3)
        self.metrics_url = f"http://127.0.0.1:{metrics_port}/metrics"
        self._key = f"AKIAREPLICA{name.upper():0>9}"
        sandbox.ec2.set_credential(self._key, account=ACCOUNT)
        self.identity = identity("127.0.0.1", self._port)
        self.log = sandbox.directory / f"replica-{name}.log"
        self.frozen = False
        line = [sys.executable, "-m", "gatepass", command, "--kubeconfig", str(sandbox.operator_kubeconfig)]
        line += options
        changed = {
            **settings,
            "GATEPASS_API_PORT": str(self.api_port),
            "GATEPASS_HEALTH_PORT": str(self._port),
            "GATEPASS_METRICS_PORT": str(metrics_port),
            "AWS_ACCESS_KEY_ID": self._key,
        }
        self._process = Process(f"replica {name}", line, self.log, {**sandbox.env, **changed})

    @property
    def alive(self) -> bool:
        """Does it run, and is it not frozen?"""
        return self._process.pid is not None and not self.frozen

    def launch(self) -> None:
        """Start it, without waiting."""
        self._process.start()

    def start(self) -> None:
        """Start it; returns when it is ready."""
        self.launch()
        self._process.wait_ready(self.ready, READY_SECONDS)

    def ready(self) -> bool:
        """Does it say that it is ready?"""
        return is_ready(self._port)

    def has_logged(self, text: str) -> bool:
        """Is it anywhere in its log?"""
        return text in self.log.read_text()

    def unready(self) -> bool:
        """Does it say that it is not ready?"""
        try:
            urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=5)
        except HTTPError as error:
            return error.code == HTTPStatus.SERVICE_UNAVAILABLE
        except OSError:
            pass
        return False

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self.frozen = False

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self._process.terminate()

    def reap(self) -> None:
        """Return when it is gone."""
        self._process.reap()

    def freeze(self) -> None:
        """SIGSTOP: it is not there, and does not know."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGCONT)
        self.frozen = False

    def ended(self) -> bool:
        """Is the process no more?"""
        return self._process.pid is None

    def calls(self, since: int = 0) -> list[dict[str, Any]]:
        """The calls to AWS that it has made after that one."""
        return [call for call in self._sandbox.ec2.log(since) if call.get("access_key") == self._key]

    def writes(self, since: int = 0) -> list[dict[str, Any]]:
        """Those of them that change anything."""
        reads = ("Describe", "Get", "Assume")
        return [call for call in self.calls(since) if not call["action"].startswith(reads)]


class Replicas:
    """Some of them, and the lease as `api` has it, which is for one thread."""

    def __init__(self, api: KubeApi, *members: Replica) -> None:
        self._api = api
        self.all = members

    def lease(self) -> dict[str, Any]:
        """What the lease says."""
        return dict(self._api.request("GET", LEASE)["spec"])

    def gap(self, earlier: Replica) -> float:
        """Seconds from the last renewal of the one who led before until its successor took the lease."""
        lease = self._api.request("GET", LEASE)
        told = dict(each.split("=") for each in lease["metadata"]["annotations"][EARLIER].split())
        taken, renewed = lease["spec"]["acquireTime"], told[earlier.identity]
        return (datetime.fromisoformat(taken) - datetime.fromisoformat(renewed)).total_seconds()

    def leader(self) -> Replica | None:
        """Who works; None while nobody does, or nobody can tell."""
        try:
            holder = self.lease()["holderIdentity"]
        except (OSError, KubeApiError):
            return None
        return next((each for each in self.all if each.identity == holder and each.alive), None)

    def pair(self) -> tuple[Replica, Replica]:
        """The one that works, and the one that stands by."""
        leader = wait_for(self.leader, "somebody leads")
        return leader, next(each for each in self.all if each is not leader)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Both run, one after the other."""
        try:
            for each in self.all:
                each.start()
            yield
        finally:
            for each in self.all:
                each.terminate()  # and nobody has to wait for the end of its lease
            for each in self.all:
                each.reap()


@contextmanager
def other_cluster(
    sandbox: Sandbox, owner: str, tenant: Tenant, *options: str, backup: dict[str, Any] | None = None
) -> Iterator[Replica]:
    """The operator of another cluster, with this install id, and with our Lease as it was in a `backup`."""
    if backup is not None:
        lease = {"metadata": {"name": "gatepass"}, "spec": {**backup, "leaseDurationSeconds": 1}}
        tenant.api.request("POST", f"/apis/coordination.k8s.io/v1/namespaces/{tenant.namespace}/leases", lease)
    let_lead(tenant.api, tenant.namespace, "gatepass-system/gatepass")
    settings = {
        "GATEPASS_INSTALL_ID": owner,
        "GATEPASS_NAMESPACE": tenant.namespace,
        "GATEPASS_WATCH_NAMESPACES": tenant.namespace,
        "GATEPASS_RESYNC_SECONDS": str(RESYNC_SECONDS),
        "GATEPASS_ADMISSION_UNVERIFIED": "true",
    }
    other = Replica(sandbox, "other", options=options, **settings)
    other.start()
    try:
        yield other
    finally:
        other.kill()
