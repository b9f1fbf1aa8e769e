"""What the tour applies, as a reader would write it."""

from typing import Final

NAMESPACE: Final = "shop"
ADDRESS: Final = "203.0.113.7/32"
OFFICE: Final = "198.51.100.0/28"
AS_RUNNER: Final = (f"--as=system:serviceaccount:{NAMESPACE}:runner",)

ACCOUNT: Final = """\
apiVersion: v1
kind: ServiceAccount
metadata: {name: runner}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: runner-uses-staging-db}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: use-staging-db}
subjects: [{kind: ServiceAccount, name: runner}]
"""

ROLE: Final = """\
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: use-staging-db}
rules:
  - {apiGroups: [gatepass.dev], resources: [protectedresources], resourceNames: [staging-db], verbs: [use]}
  - {apiGroups: [gatepass.dev], resources: [accesssessions], verbs: [create, get, patch]}
"""


def door(name: str, group: str) -> str:
    """A ProtectedResource of one security group."""
    return f"""\
apiVersion: gatepass.dev/v1alpha1
kind: ProtectedResource
metadata: {{name: {name}}}
spec:
  aws: {{region: eu-central-1, securityGroups: [{group}]}}
  ports: [{{protocol: TCP, port: 5432}}]
  policy: {{maxDuration: 2h}}
"""


def session(name: str, *, resource: str = "staging-db", duration: str = "1h", cidr: str = ADDRESS) -> str:
    """An AccessSession."""
    return f"""\
apiVersion: gatepass.dev/v1alpha1
kind: AccessSession
metadata: {{name: {name}}}
spec:
  resources: [{{name: {resource}}}]
  source: {{cidrs: [{cidr}]}}
  duration: {duration}
  reason: integration tests, run {name.removeprefix("it-")}
"""
