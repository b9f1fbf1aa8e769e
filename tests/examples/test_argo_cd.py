"""The health checks for Argo CD, in the Lua that it has, on every state of both kinds."""

from typing import Any

import pytest
from lupa.lua51 import LuaRuntime

from tests.examples.files import document
from tests.examples.statuses import ALL, IDS, Case

_CHECKS = document("argo-cd/argocd-cm.yaml", "ConfigMap")["data"]
_HEALTHS = {"healthy": "Healthy", "progressing": "Progressing", "degraded": "Degraded"}


def health(kind: str, generation: int, status: dict[str, Any] | None) -> tuple[str, str]:
    """Status and message, as Argo CD would have them of an object."""
    runtime = LuaRuntime(unpack_returned_tuples=True)
    body = {"metadata": {"generation": generation}, **({} if status is None else {"status": status})}
    runtime.globals().obj = runtime.table_from(body, recursive=True)
    found = runtime.execute(_CHECKS[f"resource.customizations.health.gatepass.dev_{kind}"])
    return found["status"], found["message"]


@pytest.mark.parametrize(("kind", "case"), ALL, ids=IDS)
def test_each_state_has_its_health(kind: str, case: Case) -> None:
    status, message = health(kind, 1, case.status)
    assert status == _HEALTHS[case.health]
    assert isinstance(message, str)
    if case.health == "degraded":
        assert message, "what is wrong is said"


@pytest.mark.parametrize("kind", ["AccessSession", "ProtectedResource"])
def test_an_object_that_nobody_has_seen_yet_is_progressing(kind: str) -> None:
    assert health(kind, 1, None)[0] == "Progressing"
    assert health(kind, 1, {})[0] == "Progressing"


@pytest.mark.parametrize(("kind", "case"), ALL, ids=IDS)
def test_what_was_said_of_an_older_spec_does_not_count(kind: str, case: Case) -> None:
    assert health(kind, 2, case.status)[0] == "Progressing"
