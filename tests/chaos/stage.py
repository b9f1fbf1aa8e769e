"""The sandbox as chaos needs it: an operator that reaches its servers over links that can be cut."""

import http.client
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from gatepass.sandbox.cloud import REGION
from gatepass.sandbox.environment import Sandbox
from gatepass.sandbox.kubeapi import KubeApi, KubeApiError
from gatepass.sandbox.processes import Process
from tests.chaos.link import Link, kubeconfig_through
from tests.chaos.script import SEEN, Way
from tests.conftest import AwsAccount
from tests.e2e.echo import echo
from tests.e2e.pods import Pods
from tests.e2e.replicas import LEASE
from tests.e2e.tenant import MERGE
from tests.egress.vpc import Machine, Vpc
from tests.observer.observer import Observer, install_id
from tests.sandbox.aws import new_group, tcp

RESYNC_SECONDS = 5.0
READY_SECONDS = 120.0
GRACE_SECONDS = 30.0
FOREIGN = "198.51.100.99/32"
_ROOT = Path(__file__).parents[2]


class Stage:
    """One operator, one observer, and groups in which somebody else has rules too; use it in a `with`."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._stack = ExitStack()

    def __enter__(self) -> "Stage":
        with ExitStack() as stack:
            sandbox = self.sandbox
            self.kube = stack.enter_context(Link(urlsplit(sandbox.control_plane.server).port or 0))
            self.ec2 = stack.enter_context(Link(urlsplit(sandbox.endpoint_url).port or 0))
            self._account = AwsAccount(sandbox.endpoint_url, sandbox.ec2, account="123456789012")
            stack.callback(self._account.close)
            self._echoes = [stack.enter_context(echo(SEEN)) for _ in range(2)]
            self._machines = _machines(Vpc(self._account.client("ec2")))
            self.observer = stack.enter_context(Observer(sandbox, install_id(sandbox), RESYNC_SECONDS))
            self.operator = self._prepared()
            stack.callback(self.operator.stop)
            self.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _prepared(self) -> Process:
        sandbox = self.sandbox
        kubeconfig = kubeconfig_through(f"https://127.0.0.1:{self.kube.port}", sandbox, "linked")
        env = {
            **sandbox.env,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.ec2.port}",
            "GATEPASS_RESYNC_SECONDS": str(RESYNC_SECONDS),
            "GATEPASS_ECHO_URLS": ",".join(self._echoes),
            "GATEPASS_RATE_LIMIT": "1000000",
        }
        command = [sys.executable, "-m", "gatepass", "serve", "--kubeconfig", str(kubeconfig)]
        return Process("operator", command, sandbox.operator_log, env)

    def start(self) -> None:
        """Start the operator; returns when it is ready."""
        self.operator.start()
        self.operator.wait_ready(self.sandbox.operator_ready, READY_SECONDS)

    def start_again(self) -> None:
        """Start the operator, which has lost its lease and so ends by itself, as the kubelet does."""
        deadline = time.monotonic() + GRACE_SECONDS
        while self.operator.pid is not None:
            assert time.monotonic() < deadline, "the operator has lost its lease and goes on"
            time.sleep(0.1)
        self.start()

    def revive(self) -> None:
        """Start the operator, as the kubelet does, if a busy machine has cost it its lease: it ends by itself then."""
        if self.operator.pid is None:
            last = self.sandbox.operator_log.read_text().splitlines()[-1:]
            assert "is lost: it could not be renewed in time" in "".join(last), "the operator has ended by itself"
            self.start()

    def restore(self) -> None:
        """Make everything whole after a round that was broken off."""
        self.sandbox.ec2.set_faults()
        self.kube.mend()
        self.ec2.mend()
        if self.operator.pid is None:
            self.start()

    def post(self, path: str, token: str, caller: str) -> tuple[int, str]:
        """Call Gatepass's REST API, as the proxy that it trusts, for somebody who calls from there."""
        connection = http.client.HTTPConnection("127.0.0.1", int(self.sandbox.env["GATEPASS_API_PORT"]), timeout=30)
        try:
            connection.request("POST", path, headers={"Authorization": f"Bearer {token}", "X-Forwarded-For": caller})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def release(self, namespace: str) -> None:
        """Take our finalizer off every session of a namespace, as Gatepass's own account may."""
        plane = self.sandbox.control_plane
        with plane.api(plane.account_token("gatepass-system", "gatepass")) as api:
            path = f"/apis/gatepass.dev/v1alpha1/namespaces/{namespace}/accesssessions"
            for item in api.request("GET", path)["items"]:
                with suppress(KubeApiError):  # it has gone meanwhile
                    api.request(
                        "PATCH", f"{path}/{item['metadata']['name']}", {"metadata": {"finalizers": None}}, MERGE
                    )

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """While the body runs the operator cannot do its work, and lateness does not count."""
        self.observer.reachable(reachable=False)
        try:
            yield
        finally:
            self.observer.reachable(reachable=True)

    def served(self) -> None:
        """Return when the API server serves our kinds: after it has started that takes a moment."""
        self._wait(_lists, "the API server does not serve AccessSessions")

    def admits(self) -> None:
        """Return when admission lets sessions in again: its policies take up to half a minute after a start."""
        self._wait(_admits, "the API server admits no AccessSessions")

    def renewed(self) -> None:
        """Return when the operator has renewed its lease once more."""
        told: list[str] = []

        def again(api: KubeApi) -> bool:
            self.revive()
            told.append(api.request("GET", LEASE)["spec"]["renewTime"])
            return told[-1] != told[0]

        self._wait(again, "the operator does not renew its lease")

    def _wait(self, ask: Callable[[KubeApi], bool], otherwise: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        with self.sandbox.control_plane.api() as api:
            while not ask(api):
                assert time.monotonic() < deadline, otherwise
                time.sleep(0.1)

    def tenant(self, name: str, resources: dict[str, list[str]]) -> KubeApi:
        """A namespace with these resources, each with its groups; the client is the caller's to close."""
        api = self.sandbox.control_plane.api()
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        for resource, groups in resources.items():
            item = {
                "apiVersion": "gatepass.dev/v1alpha1",
                "kind": "ProtectedResource",
                "metadata": {"name": resource},
                "spec": {
                    "aws": {"region": REGION, "securityGroups": groups},
                    "ports": [{"port": 5432}],
                    "policy": {"sources": ["cidrs", "pod", "claim", "operator"]},
                },
            }
            api.request("POST", f"/apis/gatepass.dev/v1alpha1/namespaces/{name}/protectedresources", item)
        return api

    def ways(self, pods: Pods) -> list[Way]:
        """Nodes for a tenant's pods, each with another way out: a NAT gateway, an address of its own, no AWS at all."""
        found = [
            Way(pods.node_of(machine), machine.private, ip, addresses) for machine, ip, addresses in self._machines
        ]
        elsewhere = "10.9.0.4", "203.0.113.9"
        return [
            *found,
            Way(pods.node("kind://docker/kind/worker", *elsewhere), elsewhere[0], "10.244.0.7", elsewhere[1:]),
        ]

    def groups(self, count: int) -> list[str]:
        """New groups, each with a rule of somebody else, the first one also with one that sessions want."""
        ec2 = self._account.client("ec2")
        made = [new_group(ec2) for _ in range(count)]
        for number, group in enumerate(made):
            cidrs = (FOREIGN, "203.0.113.5/32") if number == 0 else (FOREIGN,)
            ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp(*cidrs, description="office"))
        return made


def _machines(vpc: Vpc) -> list[tuple[Machine, str, Sequence[str]]]:
    """Two instances, the address of a pod on each, and those that its traffic leaves from."""
    gateway, behind = vpc.nat(3)
    hidden = vpc.machine(vpc.subnet(v4=gateway))
    public = vpc.machine(vpc.subnet(v4=vpc.internet), public=True)
    assert public.public is not None
    return [(hidden, vpc.pod_address(hidden), behind), (public, public.private, [public.public])]


def _lists(api: KubeApi) -> bool:
    try:
        api.request("GET", "/apis/gatepass.dev/v1alpha1/accesssessions?limit=1")
    except KubeApiError as error:
        if error.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.FORBIDDEN}:
            raise
        return False
    except OSError:
        return False
    return True


def _admits(api: KubeApi) -> bool:
    spec = {"resources": [{"name": "probe"}], "source": {"cidrs": ["203.0.113.7/32"]}}
    item = {"apiVersion": "gatepass.dev/v1alpha1", "kind": "AccessSession", "metadata": {"name": "probe"}, "spec": spec}
    try:
        api.request("POST", "/apis/gatepass.dev/v1alpha1/namespaces/default/accesssessions?dryRun=All", item)
    except (KubeApiError, OSError):
        return False
    return True
