"""A real Kubernetes control plane on loopback: etcd, kube-apiserver and a few controllers, without nodes.

RBAC decides, a token file knows one cluster admin, service account tokens are real, and an audit log at metadata level
records who asked for what. The API server needs about 2.5 s to be ready and 300 MB.
"""

import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from gatepass.sandbox import certificates
from gatepass.sandbox.errors import SandboxError
from gatepass.sandbox.kubeapi import KubeApi, KubeApiError, kubeconfig
from gatepass.sandbox.processes import Process, free_ports

READY_SECONDS = 60.0
GRACE_SECONDS = 1.0  # the API server would wait a minute for its watches to end
TEARDOWN_SECONDS = 0.25  # nothing that it would still write is read
TOKEN_SECONDS = 24 * 3600
ADMIN = "sandbox-admin"

_CONTROLLERS = (
    "namespace-controller",
    "garbage-collector-controller",
    "serviceaccount-controller",
    "clusterrole-aggregation-controller",
    "validatingadmissionpolicy-status-controller",
)
# Forbidden: the policy that refuses an unstamped session may be in force before the one that stamps it.
_NOT_YET = {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE}
_AUDIT_POLICY: Mapping[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


class ControlPlane:
    """etcd, kube-apiserver and kube-controller-manager over one data directory; use `start` and `stop`.

    `binaries` is the folder with the programs, `folder` an empty one for data, keys and logs.
    """

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.folder = folder
        self.admin_token = secrets.token_urlsafe(32)
        self.audit_log = folder / "audit.log"
        self.admin_kubeconfig = folder / "admin.kubeconfig"
        etcd_port, peer_port, api_port = free_ports(3)
        self.server = f"https://127.0.0.1:{api_port}"
        self._etcd = Process("etcd", self._etcd_command(binaries, etcd_port, peer_port), folder / "etcd.log")
        self._api = Process(
            "kube-apiserver", self._api_command(binaries, etcd_port, api_port), folder / "kube-apiserver.log"
        )
        self._controllers = Process(
            "kube-controller-manager", self._controllers_command(binaries), folder / "kube-controller-manager.log"
        )
        self._write_files()

    @property
    def ca(self) -> Path:
        """The certificate authority of the API server, PEM."""
        return self.folder / "ca.crt"

    def api(self, token: str | None = None) -> KubeApi:
        """A client for `token`, the admin's by default; close it, or use it in a `with`."""
        return KubeApi(self.server, self.ca, token or self.admin_token)

    def start(self) -> None:
        """Start all parts; returns when the API server is ready. Raises SandboxError with the end of the log."""
        self._etcd.start()
        self._api.start()
        try:
            self._wait_ready()
            self._controllers.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all parts; what they stored stays in the folder."""
        parts = (self._controllers, self._api, self._etcd)
        for part in parts:
            part.terminate()
        for part in parts:
            part.reap(TEARDOWN_SECONDS)

    def restart_api(self, *, kill: bool = False) -> None:
        """End the API server, by SIGKILL if `kill`, and start it on the same port; returns when it is ready."""
        _end(self._api, kill=kill)
        self._api.start()
        self._wait_ready()

    def restart_etcd(self, *, kill: bool = False) -> None:
        """The same for etcd, over the same data; returns when the API server answers from it again."""
        _end(self._etcd, kill=kill)
        self._etcd.start()
        self._wait_ready()

    def restart_controllers(self, *, kill: bool = False) -> None:
        """The same for kube-controller-manager; does not wait for its controllers."""
        _end(self._controllers, kill=kill)
        self._controllers.start()

    def stop_api(self, *, kill: bool = False) -> None:
        """End the API server alone, as an outage; `restart_api` brings it back."""
        _end(self._api, kill=kill)

    @contextmanager
    def frozen_api(self) -> Iterator[None]:
        """The API server hangs: it takes connections, and answers nobody. Raises SandboxError if it does not run."""
        pid = self._api.pid
        if pid is None:
            raise SandboxError(f"{self._api.name} does not run")
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def account_token(self, namespace: str, name: str, seconds: int = TOKEN_SECONDS) -> str:
        """A token of a service account from the TokenRequest API. Raises KubeApiError if there is no such account."""
        with self.api() as api:
            answer = api.request(
                "POST",
                f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
                {
                    "apiVersion": "authentication.k8s.io/v1",
                    "kind": "TokenRequest",
                    "spec": {"expirationSeconds": seconds},
                },
            )
        return str(answer["status"]["token"])

    def write_kubeconfig(self, path: Path, user: str, token: str, namespace: str = "default") -> Path:
        """A kubeconfig for `token`, readable by its owner only."""
        path.touch(mode=0o600)
        path.write_text(json.dumps(kubeconfig(self.server, self.ca, user, token, namespace), indent=2))
        return path

    def _wait_ready(self) -> None:
        with self.api() as api:
            self._api.wait_ready(lambda: self._etcd.pid is not None and api.healthy("/readyz"), READY_SECONDS)

    def _write_files(self) -> None:
        certificates.write(self.folder)
        tokens = self.folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{self.admin_token},{ADMIN},{ADMIN},"system:masters"\n')
        (self.folder / "audit-policy.yaml").write_text(json.dumps(_AUDIT_POLICY))
        self.write_kubeconfig(self.admin_kubeconfig, ADMIN, self.admin_token)

    def _etcd_command(self, binaries: Path, port: int, peer_port: int) -> list[str]:
        client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
        return [
            str(binaries / "etcd"),
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",  # nothing here has to survive a power cut
            "--log-level=warn",
        ]

    def _api_command(self, binaries: Path, etcd_port: int, port: int) -> list[str]:
        return [
            str(binaries / "kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{etcd_port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={port}",
            f"--tls-cert-file={self.folder / 'apiserver.crt'}",
            f"--tls-private-key-file={self.folder / 'apiserver.key'}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder / 'service-accounts.pub'}",
            f"--service-account-signing-key-file={self.folder / 'service-accounts.key'}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--endpoint-reconciler-type=none",  # there is no pod to reach the API server from
            f"--audit-policy-file={self.folder / 'audit-policy.yaml'}",
            f"--audit-log-path={self.audit_log}",
            "--profiling=false",
        ]

    def _controllers_command(self, binaries: Path) -> list[str]:
        return [
            str(binaries / "kube-controller-manager"),
            f"--kubeconfig={self.admin_kubeconfig}",
            f"--controllers={','.join(_CONTROLLERS)}",
            "--leader-elect=false",
            "--secure-port=0",
        ]


def _end(process: Process, *, kill: bool) -> None:
    if kill:
        process.kill()
    else:
        process.stop(GRACE_SECONDS)


def wait_until_served(
    api: KubeApi,
    path: str,
    probe: Mapping[str, Any],
    complete: Callable[[Mapping[str, Any]], bool],
    seconds: float = 60.0,
) -> None:
    """Poll until a server-side dry run of creating `probe` at `path` succeeds with an answer that is `complete`.

    Just after a CRD is made, creates answer 404 or 503 for up to 2 s, Established or not; policies take a second too,
    and one whose parameters are of a new kind refuses until those are watched. Raises KubeApiError at any other
    refusal, or when `seconds` are over.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            if complete(api.request("POST", f"{path}?dryRun=All", probe)):
                return
        except KubeApiError as error:
            soon = error.status in _NOT_YET or "failed to configure" in str(error)
            if not soon or time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise KubeApiError(503, f"POST {path}: admission did not complete the object within {seconds:.0f} s")
        time.sleep(0.02)
