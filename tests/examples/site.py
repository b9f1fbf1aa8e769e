"""Where the examples run: the namespace `ci`, with their own base applied to a real security group.

There is no kubelet: what that would say of a pod is said here.
"""

import json
import secrets
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import boto3

from tests.examples.files import EXAMPLES

LIMIT_SECONDS = 60
NODE = "examples-node"
NODE_ADDRESSES = frozenset({"203.0.113.7/32", "203.0.113.8/32"})
_HOST = "10.9.0.4"
BROKEN = "broken-db"
_BROKEN = f"""\
apiVersion: gatepass.dev/v1alpha1
kind: ProtectedResource
metadata: {{name: {BROKEN}, namespace: ci}}
spec:
  aws: {{region: eu-central-1, securityGroups: [sg-0badbadbadbadbad0]}}
  ports: [{{protocol: TCP, port: 5432}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: use-{BROKEN}, namespace: ci}}
rules:
  - {{apiGroups: [gatepass.dev], resources: [protectedresources], resourceNames: [{BROKEN}], verbs: [use]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: runner-uses-{BROKEN}, namespace: ci}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: use-{BROKEN}}}
subjects: [{{kind: ServiceAccount, name: runner, namespace: ci}}]
"""


class Site:
    """Runs programs as an admin, and scripts as the account that the examples make."""

    def __init__(self, env: Mapping[str, str], folder: Path) -> None:
        self._env = dict(env)
        self._folder = folder
        self._ec2 = boto3.client(
            "ec2",
            endpoint_url=env["AWS_ENDPOINT_URL"],
            region_name=env["AWS_REGION"],
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        )

    def install(self, kubeconfig: Callable[[], Path]) -> None:
        """Apply examples/gitops/base to a new security group; returns when it is Ready."""
        name = f"examples-{secrets.token_hex(4)}"
        self.group = self._ec2.create_security_group(GroupName=name, Description="examples")["GroupId"]
        overlay = self._folder / "gitops"
        shutil.copytree(EXAMPLES / "gitops", overlay)
        base = overlay / "base" / "protected-resource.yaml"
        base.write_text(base.read_text().replace("sg-00000000000000000", self.group))
        self.kubectl("wait", "--for=delete", "namespace/ci", "--timeout=60s")  # that of others, which is on its way
        self.kubectl("create", "namespace", "ci")
        self.kubectl("wait", "-n", "ci", "--for=create", "serviceaccount/default", "--timeout=30s")  # which pods need
        self.kubectl("apply", "-k", str(overlay / "base"))
        self.kubectl("apply", "-f", "-", stdin=_BROKEN)
        self.kubectl("wait", "-n", "ci", "--for=condition=Ready", "protectedresource/staging-db", "--timeout=30s")
        self._node()
        self._kubeconfig = kubeconfig()

    def remove(self) -> None:
        """Delete the namespace with everything in it."""
        # First what Gatepass has to let go of, as the namespace itself takes ten seconds that nobody needs to wait for.
        self.kubectl("delete", "-n", "ci", "accesssessions,protectedresources", "--all", "--timeout=30s")
        self.kubectl("delete", "-n", "ci", "pods", "--all", "--force", "--grace-period=0")
        self.kubectl("delete", "node", NODE)
        self.kubectl("delete", "namespace", "ci", "--wait=false")
        self._ec2.close()

    def _node(self) -> None:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        self.kubectl("create", "-f", "-", stdin=json.dumps(node))
        external = [{"type": "ExternalIP", "address": each.removesuffix("/32")} for each in sorted(NODE_ADDRESSES)]
        status = {"addresses": [{"type": "InternalIP", "address": _HOST}, *external]}
        self.kubectl("patch", "node", NODE, "--subresource=status", "-p", json.dumps({"status": status}))

    def run_pod(self, name: str) -> None:
        """A pod of the runner's that runs on the node."""
        spec = {"serviceAccountName": "runner", "nodeName": NODE, "containers": [{"name": "test", "image": "test"}]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        self.kubectl("create", "-n", "ci", "-f", "-", stdin=json.dumps(pod))
        ip = "10.9.1.7"
        self.pod_says(name, phase="Running", hostIP=_HOST, hostIPs=[{"ip": _HOST}], podIP=ip, podIPs=[{"ip": ip}])

    def pod_says(self, name: str, **status: Any) -> None:
        """As the kubelet does."""
        body = json.dumps({"status": status})
        self.kubectl("patch", "-n", "ci", "pod", name, "--subresource=status", "-p", body)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """kubectl as a cluster admin; fails the test if it fails."""
        done = self._run(["kubectl", *arguments], self._env, stdin)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def warnings(self, *arguments: str) -> str:
        """What kubectl says on standard error, as Gatepass's own account in what admission sees."""
        account = ("--as=system:serviceaccount:gatepass-system:gatepass", "--as-group=system:masters")
        done = self._run(["kubectl", *arguments, *account], self._env, "")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stderr

    def script(self, shell: Sequence[str], text: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """A script of a job, as the examples' runner, with the variables that the CI would set."""
        kubeconfig = self._folder / "runner.kubeconfig"
        shutil.copy(self._kubeconfig, kubeconfig)
        path = self._folder / "script"
        path.write_text(text)
        return self._run([*shell, str(path)], {**self._env, "KUBECONFIG": str(kubeconfig), **variables}, "")

    def session(self, name: str) -> dict[str, Any]:
        """A session's object."""
        found: dict[str, Any] = json.loads(self.kubectl("get", "-n", "ci", "accesssession", name, "-o", "json"))
        return found

    def open_to(self) -> set[str]:
        """The addresses that the security group lets in, except the office of the example."""
        filters = [{"Name": "group-id", "Values": [self.group]}]
        rules = self._ec2.describe_security_group_rules(Filters=filters)["SecurityGroupRules"]
        return {rule["CidrIpv4"] for rule in rules if not rule["IsEgress"]} - {"198.51.100.0/28"}

    def closed(self, name: str, reason: str, addresses: Set[str]) -> None:
        """Wait until a session has ended; fails the test if its addresses are still let in then."""
        waits = ("--for=jsonpath={.status.phase}=Cancelled", f"accesssession/{name}", "--timeout=30s")
        self.kubectl("wait", "-n", "ci", *waits)
        assert self.session(name)["status"]["endedReason"] == reason
        assert not self.open_to() & addresses

    def _run(self, command: Sequence[str], env: Mapping[str, str], stdin: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=dict(env), input=stdin, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
        )
