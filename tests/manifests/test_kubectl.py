"""The policies and `kubectl`: create, apply on either side, dry runs and diffs."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gatepass.sandbox import binaries
from tests.manifests.tenants import Cluster, Person, annotated, resource, session


class Kubectl:
    """kubectl as the cluster's admin, in one namespace."""

    def __init__(self, cluster: Cluster, namespace: str, folder: Path) -> None:
        self._command = [str(binaries.kubernetes() / "kubectl"), "--namespace", namespace]
        self._env = {**os.environ, "KUBECONFIG": str(cluster.control_plane.admin_kubeconfig)}
        self._file = folder / "objects.json"

    def __call__(self, *words: str, items: list[dict[str, Any]]) -> str:
        self._file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        command = [*self._command, *words, "--filename", str(self._file)]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def admin(cluster: Cluster) -> Person:
    return cluster.admin(cluster.namespace())


@pytest.fixture(scope="module")
def kubectl(cluster: Cluster, admin: Person, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    return Kubectl(cluster, admin.namespace, tmp_path_factory.mktemp("kubectl"))


@pytest.mark.parametrize("side", ["--server-side", "--server-side=false"])
def test_apply(kubectl: Kubectl, admin: Person, side: str) -> None:
    items = [session(name=f"applied{len(side)}"), resource(f"applied{len(side)}")]
    name = items[0]["metadata"]["name"]
    assert "dry run" in kubectl("apply", side, "--dry-run=server", items=items)
    kubectl("apply", side, items=items)
    first = [admin.get(item["kind"], name) for item in items]
    assert all(each["metadata"]["finalizers"] == ["gatepass.dev/revoke"] for each in first)
    # Applied again, as GitOps does all day, nothing changes and nothing is refused.
    kubectl("apply", side, items=items)
    assert kubectl("diff", side, items=items) == ""
    assert [admin.get(item["kind"], name)["metadata"]["resourceVersion"] for item in items] == [
        each["metadata"]["resourceVersion"] for each in first
    ]
    items[0]["spec"]["duration"] = "2h"
    kubectl("apply", side, items=items)
    changed = admin.get("AccessSession", name)
    assert changed["spec"]["duration"] == "2h"
    assert (
        changed["metadata"]["annotations"]["gatepass.dev/requested-by"]
        == (first[0]["metadata"]["annotations"]["gatepass.dev/requested-by"])
    )


def test_create_with_a_generated_name(kubectl: Kubectl) -> None:
    item = annotated(session(), name=None, generateName="it-")
    assert "accesssession.gatepass.dev/it-" in kubectl("create", items=[item])
