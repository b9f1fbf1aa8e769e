"""The health expressions for Flux, as CEL in the API server, on every state of both kinds.

A policy that warns stands for Flux: it evaluates the three expressions of a kind on each status that is tried on an
object, and its warnings are the names of those that hold.
"""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.examples.files import document
from tests.examples.site import Site
from tests.examples.statuses import ALL, IDS, Case

_FIELDS = {"healthy": "current", "progressing": "inProgress", "degraded": "failed"}
_OBJECTS = {"AccessSession": "accesssessions/health", "ProtectedResource": "protectedresources/broken-db"}
_SECONDS = 30
_SESSION = """\
apiVersion: gatepass.dev/v1alpha1
kind: AccessSession
metadata: {name: health, namespace: ci}
spec: {resources: [{name: nowhere}], source: {cidrs: [203.0.113.60/32]}}
"""


class Flux:
    """Tells which expressions of a kind hold for a status."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def holding(self, kind: str, status: dict[str, Any]) -> set[str]:
        """The names of the expressions that are true."""
        patch = json.dumps([{"op": "replace", "path": "/status", "value": status}])
        tried = ("-n", "ci", "--subresource=status", "--dry-run=server", "--type=json", "-p", patch)
        told = self._site.warnings("patch", _OBJECTS[kind], *tried)
        return set(re.findall(r"flux-[a-z]+'[^:]*: (.+)", told))


@pytest.fixture(scope="module")
def flux(site: Site) -> Iterator[Flux]:
    policies = [
        each
        for check in document("flux/kustomization.yaml", "Kustomization")["spec"]["healthCheckExprs"]
        for each in _policy(check)
    ]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": policies})
    site.kubectl("apply", "-f", "-", stdin=text)
    site.kubectl("apply", "-f", "-", stdin=_SESSION)
    site.kubectl("wait", "-n", "ci", "--for=condition=Settled", "accesssession/health", "--timeout=30s")
    flux = Flux(site)
    deadline = time.monotonic() + _SECONDS
    while not all(flux.holding(kind, {}) for kind in _OBJECTS):
        assert time.monotonic() < deadline, "the policies did not come into force"
        time.sleep(0.1)
    yield flux
    site.kubectl("delete", "-f", "-", stdin=text)


def _policy(check: dict[str, Any]) -> list[dict[str, Any]]:
    """A policy for the expressions of one kind, and its binding. Flux names an object's fields without the object."""
    version = "admissionregistration.k8s.io/v1"
    metadata = {"name": f"flux-{check['kind'].lower()}"}
    rule = {
        "apiGroups": ["gatepass.dev"],
        "apiVersions": ["v1alpha1"],
        "operations": ["UPDATE"],
        "resources": [f"{_OBJECTS[check['kind']].split('/')[0]}/status"],
    }
    validations = [
        {"expression": f"!({_of_object(check[field])})", "message": field} for field in sorted(_FIELDS.values())
    ]
    spec = {"failurePolicy": "Fail", "matchConstraints": {"resourceRules": [rule]}, "validations": validations}
    binding = {"policyName": metadata["name"], "validationActions": ["Warn"]}
    return [
        {"apiVersion": version, "kind": "ValidatingAdmissionPolicy", "metadata": metadata, "spec": spec},
        {"apiVersion": version, "kind": "ValidatingAdmissionPolicyBinding", "metadata": metadata, "spec": binding},
    ]


def _of_object(expression: str) -> str:
    return re.sub(r"(?<![\w.'])(status|metadata)(?=\.)", r"object.\1", expression)


@pytest.mark.parametrize(("kind", "case"), ALL, ids=IDS)
def test_each_state_has_its_health_and_no_other(flux: Flux, kind: str, case: Case) -> None:
    assert flux.holding(kind, case.status) == {_FIELDS[case.health]}


@pytest.mark.parametrize("kind", _OBJECTS)
def test_an_object_that_nobody_has_seen_yet_is_in_progress(flux: Flux, kind: str) -> None:
    assert flux.holding(kind, {}) == {"inProgress"}


@pytest.mark.parametrize(("kind", "case"), ALL, ids=IDS)
def test_what_was_said_of_an_older_spec_does_not_count(flux: Flux, kind: str, case: Case) -> None:
    assert flux.holding(kind, {**case.status, "observedGeneration": 0}) == {"inProgress"}
