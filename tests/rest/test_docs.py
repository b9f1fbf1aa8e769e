"""What docs/api.md has its readers paste into a sandbox."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from gatepass.sandbox.environment import CALLER, Sandbox
from tests.e2e.product import Product

_DOC: Final = Path(__file__).parents[2] / "docs" / "api.md"
_BLOCK: Final = re.compile(r"<!-- run -->\n```sh\n(.*?)```", re.DOTALL)
_YAML: Final = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
_CLEAN_UP: Final = """
kubectl delete --namespace ci apikeybindings,accesssessions,protectedresources --all --timeout=30s
kubectl delete namespace ci --wait=false
"""


@pytest.fixture
def printed(sandbox: Sandbox, service: Product) -> Iterator[list[str]]:
    """What its blocks print."""
    (block,) = _BLOCK.findall(_DOC.read_text())
    _run(sandbox, "kubectl wait --for=delete namespace/ci --timeout=60s")  # that of others, which is on its way
    try:
        yield _run(sandbox, block)
    finally:
        _run(sandbox, _CLEAN_UP)


def _run(sandbox: Sandbox, block: str) -> list[str]:
    command = ["bash", "-eu", "-o", "pipefail", "-c", block]
    done = subprocess.run(command, env=sandbox.env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_the_bindings_are_taken_as_they_are(sandbox: Sandbox) -> None:
    blocks = [block for block in _YAML.findall(_DOC.read_text()) if "kind: ApiKeyBinding" in block]
    issuers = ("token.actions.githubusercontent.com", "oidc.circleci.com", "agent.buildkite.com")
    assert all(any(f"issuer: https://{issuer}" in block for block in blocks) for issuer in issuers)
    take = "kubectl create --dry-run=server --validate=strict --namespace default -f - <<'EOF'"
    for block in blocks:
        _run(sandbox, f"{take}\n{block.replace('namespace: ci', 'namespace: default')}EOF")


def test_the_first_session(printed: list[str]) -> None:
    assert printed[-3:] == ["ACTIVE", CALLER, "CANCELLED"]
