"""What `gatepass operator` takes, and what it does not."""

import pytest
from typer.testing import CliRunner

from gatepass.cli import app


@pytest.mark.parametrize("command", ["operator", "serve"])
@pytest.mark.parametrize(
    ("time", "said"),
    [
        ("yesterday", "not a time"),
        ("2026-01-01T00:00:00", "no zone"),
        ("2999-01-01T00:00:00Z", "in the future"),
    ],
)
def test_sessions_end_before_a_moment_that_has_passed(command: str, time: str, said: str) -> None:
    result = CliRunner().invoke(app, [command, "--end-sessions-created-before", time])
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())
