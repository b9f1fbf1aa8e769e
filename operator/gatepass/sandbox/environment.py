"""The whole product on loopback: control plane, EC2 emulator, Gatepass's objects and, if wanted, the operator.

with Sandbox() as sandbox:
    subprocess.run(["kubectl", "get", "accesssessions", "-A"], env=sandbox.env)
"""

import ipaddress
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gatepass.core.policy import cidr_refusal
from gatepass.core.types.common import REQUESTED_BY
from gatepass.manifests import ENFORCED_AFTER, crds, manifests
from gatepass.sandbox import binaries
from gatepass.sandbox.cloud import MISLEADING, REGION, Cloud
from gatepass.sandbox.command import InterruptedBySignalError
from gatepass.sandbox.controlplane import ControlPlane, wait_until_served
from gatepass.sandbox.ec2.profiles import profile
from gatepass.sandbox.errors import SandboxError
from gatepass.sandbox.processes import Process, free_ports, is_ready
from gatepass.sandbox.progress import say

NAMESPACE = "gatepass-system"
CALLER = "203.0.113.10"
SERVICE_ACCOUNT = "gatepass"
READY_SECONDS = 60.0
OPERATOR_GRACE_SECONDS = 15.0


class Sandbox:
    """Everything a user of Gatepass has, on free loopback ports, for as long as the `with` lasts.

    `operator`: also run `gatepass serve`, operator and REST API, as its own service account. `ec2_faults`: profiles of
    EC2's faults, with commas between them, and `ec2_seed` what everything in them is drawn from. `caller`: the address
    that the load balancer before the API presents everybody as. `audit`: keep an audit trail.
    `settings`: more variables for the operator (`GATEPASS_...`). `keep_logs`: keep the directory at the end even on
    success; when the body raises it is always kept, and its place is said on stderr.
    Enter it in a thread that outlives it: on Linux its parts end with the thread that started them.
    Raises SandboxError for arguments that it does not take, and from `__enter__` if a part does not start; nothing is
    left running then.
    """

    def __init__(
        self,
        *,
        operator: bool = True,
        ec2_faults: str = "none",
        ec2_seed: int = 0,
        caller: str = CALLER,
        audit: bool = True,
        settings: Mapping[str, str] | None = None,
        keep_logs: bool = False,
    ) -> None:
        try:
            self._faults, self._seed = profile(ec2_faults), ec2_seed
        except ValueError as error:
            raise SandboxError(str(error)) from error
        self._with_operator = operator
        self._caller = _presentable(caller)
        self._with_audit = audit
        self._settings = dict(settings or {})
        self.keep_logs = keep_logs

    def __enter__(self) -> Self:
        self._programs = binaries.kubernetes()
        self.directory = Path(tempfile.mkdtemp(prefix="gatepass-sandbox-"))
        self._health_port, self._metrics_port, self._api_port, balancer_port = free_ports(4)
        self.api_url = f"http://127.0.0.1:{balancer_port}"
        self.health_url = f"http://127.0.0.1:{self._health_port}"
        self.metrics_url = f"http://127.0.0.1:{self._metrics_port}/metrics"
        self._cloud = Cloud(self.directory)
        self.endpoint_url = self._cloud.endpoint_url
        self.call_log = self._cloud.call_log
        self.ec2 = self._cloud.control
        folder = self.directory / "kubernetes"
        folder.mkdir()
        self.control_plane = ControlPlane(self._programs, folder)
        self.kubeconfig = self.control_plane.admin_kubeconfig
        self.operator_kubeconfig = self.directory / "operator.kubeconfig"
        self.env = self._environment()
        command = [sys.executable, "-m", "gatepass", "serve", "--kubeconfig", str(self.operator_kubeconfig)]
        self._operator = Process("operator", command, self.directory / "operator.log", self.env)
        upstream = f"http://127.0.0.1:{self._api_port}"
        balance = [sys.executable, "-m", "gatepass.sandbox.loadbalancer", str(balancer_port), upstream, self._caller]
        self._balancer = Process("load balancer", balance, self.directory / "loadbalancer.log", self.env)
        try:
            self._start()
        except BaseException as error:
            self._end(failed=_is_failure(type(error)))
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(failed=kind is not None and _is_failure(kind))

    @property
    def operator_log(self) -> Path:
        """Where the operator writes its log."""
        return self._operator.log

    @property
    def operator_pid(self) -> int | None:
        """The operator's process id while it runs."""
        return self._operator.pid

    @property
    def changes(self) -> dict[str, str]:
        """What of `env` differs from our own environment."""
        return {name: value for name, value in self.env.items() if os.environ.get(name) != value}

    def start_operator(self) -> None:
        """Start the operator; returns when it is ready. Raises SandboxError with the end of its log if it is not."""
        self._operator.start()
        self._operator.wait_ready(self.operator_ready, READY_SECONDS)

    def operator_ready(self) -> bool:
        """Whether the operator says that it is ready."""
        return is_ready(self._health_port)

    def kill_operator(self) -> None:
        """SIGKILL the operator, as a crash."""
        self._operator.kill()

    def stop_operator(self) -> None:
        """End the operator in order, as Kubernetes would."""
        self._operator.stop(OPERATOR_GRACE_SECONDS)

    def restart_api(self, *, kill: bool = False) -> None:
        """End the API server, by SIGKILL if `kill`, and start it again; returns when its admission works as before."""
        self.control_plane.restart_api(kill=kill)
        self.wait_until_served()

    def wait_until_served(self) -> None:
        """Return when the API server, which has just started, serves our kinds and its admission works."""
        with self.control_plane.api() as api:
            for definition in crds():
                wait_until_served(api, *_probe(definition), complete=_stamped)

    def account_kubeconfig(self, namespace: str, name: str) -> Path:
        """A kubeconfig of a service account, with a fresh token. Raises KubeApiError if there is no such account."""
        token = self.control_plane.account_token(namespace, name)
        path = self.directory / f"{namespace}-{name}.kubeconfig"
        return self.control_plane.write_kubeconfig(path, name, token, namespace)

    def _environment(self) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in MISLEADING and not name.startswith("GATEPASS_")
        }
        direct = ",".join(
            filter(None, (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "127.0.0.1,localhost"))
        )
        return {
            **inherited,
            "NO_PROXY": direct,
            "no_proxy": direct,
            "PATH": os.pathsep.join((str(self._programs), str(Path(sys.executable).parent), inherited.get("PATH", ""))),
            "KUBECONFIG": str(self.kubeconfig),
            "KUBERC": "off",  # a person's own defaults for kubectl
            **self._cloud.env,
            "GATEPASS_TOKEN": self.control_plane.admin_token,
            "GATEPASS_OPERATOR_KUBECONFIG": str(self.operator_kubeconfig),
            "GATEPASS_CREDENTIALS_NAMESPACES": json.dumps({"*": ["operator", "*"]}),
            "GATEPASS_API_URL": self.api_url,
            "GATEPASS_PUBLIC_URL": self.api_url,
            "GATEPASS_API_HOST": "127.0.0.1",
            "GATEPASS_API_PORT": str(self._api_port),
            "GATEPASS_TRUSTED_PROXIES": "127.0.0.1/32",
            "GATEPASS_HEALTH_HOST": "127.0.0.1",
            "GATEPASS_HEALTH_PORT": str(self._health_port),
            "GATEPASS_METRICS_PORT": str(self._metrics_port),
            **(self._audit() if self._with_audit else {}),
            **self._settings,
        }

    def _audit(self) -> dict[str, str]:
        keys = self.directory / "audit-keys"
        keys.write_text(secrets.token_urlsafe(32) + "\n")
        keys.chmod(0o600)
        return {
            "GATEPASS_DATABASE_URL": f"sqlite:///{self.directory}/audit.db",
            "GATEPASS_AUDIT_KEY_FILE": str(keys),
        }

    def _start(self) -> None:
        self._cloud.start()
        self._balancer.start()
        self.control_plane.start()
        with self.control_plane.api() as api:
            api.apply(crds())
            api.apply(manifests(namespace=NAMESPACE, service_account=SERVICE_ACCOUNT))
            applied = time.monotonic()
            token = self.control_plane.account_token(NAMESPACE, SERVICE_ACCOUNT)
            self.control_plane.write_kubeconfig(self.operator_kubeconfig, SERVICE_ACCOUNT, token, NAMESPACE)
            self._cloud.wait_ready(self._faults, self._seed)
            if self._with_operator:
                self._operator.start()
            self.wait_until_served()  # held back by the API server for 2 s: the operator starts meanwhile
        if self._with_operator:
            self._operator.wait_ready(self.operator_ready, READY_SECONDS)
        # Before, the operator believes nobody: what is created has to be created again.
        believed = applied + ENFORCED_AFTER.total_seconds() + 1  # times are whole seconds
        time.sleep(max(believed - time.monotonic(), 0.0))

    def _end(self, *, failed: bool) -> None:
        self._operator.stop(OPERATOR_GRACE_SECONDS)
        self._balancer.stop()
        self._cloud.stop()
        self.control_plane.stop()
        if failed or self.keep_logs:
            say(f"the sandbox's logs are in {self.directory}")
        else:
            with suppress(OSError):
                shutil.rmtree(self.directory)


def _is_failure(kind: type[BaseException]) -> bool:
    """Whether an exception is one whose cause the logs may tell, and not a person's wish to end."""
    return issubclass(kind, Exception) and kind is not InterruptedBySignalError


# Objects that the API server would take, for dry runs.
_PROBES: Mapping[str, Mapping[str, Any]] = {
    "ApiKeyBinding": {"secretName": "probe", "scopes": ["sessions:read"]},
    "AccessSession": {"resources": [{"name": "probe"}], "source": {"cidrs": ["203.0.113.7/32"]}, "reason": "probe"},
    "ProtectedResource": {
        "aws": {"region": REGION, "securityGroups": ["sg-00000000000000000"]},
        "ports": [{"protocol": "TCP", "port": 443}],
    },
}


def _stamped(answer: Mapping[str, Any]) -> bool:
    """Whether the admission policies are in force: one of them writes on every session who asked for it."""
    return answer["kind"] != "AccessSession" or REQUESTED_BY in answer["metadata"].get("annotations", {})


def _probe(definition: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The collection of a CRD in the default namespace, and an object to try there."""
    spec = definition["spec"]
    version = f"{spec['group']}/{spec['versions'][0]['name']}"
    kind, plural = spec["names"]["kind"], spec["names"]["plural"]
    return (
        f"/apis/{version}/namespaces/default/{plural}",
        {"apiVersion": version, "kind": kind, "metadata": {"name": "probe"}, "spec": _PROBES.get(kind, {})},
    )


def _presentable(caller: str) -> str:
    """An address that a rule can let in; loopback would be taken for one more trusted proxy."""
    try:
        address = ipaddress.ip_address(caller)
    except ValueError:
        address = None
    if address is None or cidr_refusal(f"{address}/{address.max_prefixlen}", "") is not None:
        raise SandboxError(
            f"--caller must be an address that a firewall could let in, such as {CALLER}: got {caller!r}"
        )
    return str(address)
