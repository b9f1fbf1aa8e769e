"""The Kustomize folders and the manifests that stand alone, as the API server takes them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.examples.files import EXAMPLES, documents
from tests.examples.site import Site


def _is_for_the_api_server(item: dict[str, Any]) -> bool:
    """Is it of a group that the API server has, and not for a CI?"""
    return item.get("apiVersion", "").partition("/")[0] in ("gatepass.dev", "rbac.authorization.k8s.io")


def test_the_overlay_is_taken_by_the_api_server(site: Site) -> None:
    answer = site.kubectl("apply", "--dry-run=server", "-o", "json", "-k", str(EXAMPLES / "gitops" / "staging"))
    items = {f"{item['kind']}/{item['metadata']['name']}": item for item in json.loads(answer)["items"]}
    assert set(items) == {
        "AccessSession/support-case-1138",
        "ProtectedResource/staging-db",
        "Role/use-staging-db",
        "RoleBinding/runner-uses-staging-db",
        "ServiceAccount/runner",
    }
    assert {item["metadata"]["namespace"] for item in items.values()} == {"ci"}
    groups = items["ProtectedResource/staging-db"]["spec"]["aws"]["securityGroups"]
    assert groups == ["sg-0123456789abcdef0", "sg-0fedcba9876543210"]


def test_the_base_says_nothing_that_the_api_server_would_drop(site: Site) -> None:
    site.kubectl("apply", "--dry-run=server", "--validate=strict", "-k", str(EXAMPLES / "gitops" / "base"))


_OURS = sorted(
    path
    for path in EXAMPLES.rglob("*.yaml")
    if path.parent.name not in ("base", "staging")
    and any(_is_for_the_api_server(each) for each in documents(str(path)))
)


@pytest.mark.parametrize("path", _OURS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_stands_alone_is_taken_as_it_is(site: Site, path: Path) -> None:
    site.kubectl("create", "-n", "ci", "--dry-run=server", "--validate=strict", "-f", str(path))
