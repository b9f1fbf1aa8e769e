"""GitHub's workflow, as actionlint sees it."""

import re
import subprocess
import textwrap
from pathlib import Path

from gatepass.sandbox import binaries
from tests.examples.files import EXAMPLES
from tests.programs import ACTIONLINT


def _actionlint(workflow: Path) -> subprocess.CompletedProcess[str]:
    # Without shellcheck and pyflakes, so that it says the same on every machine.
    options = ("-no-color", "-shellcheck=", "-pyflakes=")
    program = binaries.resolve(ACTIONLINT) / "actionlint"
    return subprocess.run([program, *options, workflow], capture_output=True, text=True, timeout=60, check=False)


def test_actionlint_has_nothing_to_say() -> None:
    workflows = sorted((EXAMPLES / "github-actions").glob("*.yaml"))
    assert workflows
    for workflow in workflows:
        answer = _actionlint(workflow)
        assert answer.returncode == 0, answer.stdout + answer.stderr


def test_actionlint_has_nothing_to_say_of_the_snippet_in_the_readme(tmp_path: Path) -> None:
    (snippet,) = re.findall(r"```yaml\n(env:.*?)```", (EXAMPLES.parent / "README.md").read_text(), re.DOTALL)
    workflow = tmp_path / "workflow.yaml"
    workflow.write_text("on: push\njobs:\n  test:\n    runs-on: ubuntu-latest\n" + textwrap.indent(snippet, "    "))
    answer = _actionlint(workflow)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_actionlint_would_say_it(tmp_path: Path) -> None:
    workflows = (EXAMPLES / "github-actions").glob("*.y*ml")
    workflow = next(each for each in workflows if "github.run_attempt" in each.read_text())
    broken = tmp_path / "workflow.yaml"
    broken.write_text(workflow.read_text().replace("github.run_attempt", "github.run_atempt"))
    answer = _actionlint(broken)
    assert answer.returncode == 1
    assert "run_atempt" in answer.stdout
