"""The Kustomize folders, as the API server takes them."""

import json

from tests.examples.files import EXAMPLES
from tests.examples.site import Site


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


def test_the_job_and_its_session_are_taken_as_they_are(site: Site) -> None:
    site.kubectl(
        "create", "--dry-run=server", "--validate=strict", "-f", str(EXAMPLES / "job" / "integration-tests.yaml")
    )
