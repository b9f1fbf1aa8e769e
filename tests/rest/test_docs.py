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
_CLEAN_UP: Final = """
kubectl delete --namespace ci apikeybindings,accesssessions,protectedresources --all --timeout=30s
kubectl delete namespace ci --wait=false
"""


@pytest.fixture
def printed(sandbox: Sandbox, service: Product) -> Iterator[list[str]]:
    """What its blocks print."""
    (block,) = _BLOCK.findall(_DOC.read_text())
    try:
        yield _run(sandbox, block)
    finally:
        _run(sandbox, _CLEAN_UP)


def _run(sandbox: Sandbox, block: str) -> list[str]:
    command = ["bash", "-eu", "-o", "pipefail", "-c", block]
    done = subprocess.run(command, env=sandbox.env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_the_first_session(printed: list[str]) -> None:
    assert printed[-3:] == ["ACTIVE", CALLER, "CANCELLED"]
