"""A hundred seeds hold every law; `make simulate SEEDS=2000` runs more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.script import Script, write_script
from tests.simulation.shrink import shrink

ROOT = Path(__file__).parents[2]
FOUND = sorted((Path(__file__).parent / "found").glob("*.json"))


def simulate(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """As `make simulate` does it, which sets its own PYTHONHASHSEED, after all else: beside it operators keep time."""
    command = ["nice", "-n", "19", sys.executable, "-m", "tests.simulation", *arguments]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "operator")])
    env = {**os.environ, "PYTHONPATH": paths, **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=3600, check=False)


def test_a_hundred_seeds() -> None:
    done = simulate("--seeds", "100")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", FOUND, ids=lambda path: path.stem)
def test_what_was_found_once(script: Path) -> None:
    """Shrunk scripts that have broken a law; what is still known to is left out as everywhere."""
    done = simulate("--replay", str(script))
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr


def test_a_seed_replays_to_the_same_step() -> None:
    """In processes whose addresses and hashes differ; a broken law shows the trace."""
    told = [simulate("--replay", "1", "--break", "grants more", PYTHONHASHSEED=seed).stdout for seed in ("1", "2")]
    assert told[0] == told[1]
    assert told[0].splitlines()[-1].startswith("opened what nobody was granted: ")
    assert "rule gatepass" in told[0]


def test_a_failing_script_is_shrunk_to_what_makes_it_fail() -> None:
    script = write_script(7, 2.0)
    wanted = [script.steps[20], script.steps[90]]

    def still_fails(candidate: Script) -> float | None:
        return wanted[-1].at if all(step in candidate.steps for step in wanted) else None

    assert shrink(script, still_fails).steps == tuple(wanted)


def test_a_script_is_kept_and_taken_back(tmp_path: Path) -> None:
    script = write_script(3, 1.0)
    script.save(tmp_path / "kept.json", breach="left open")
    assert Script.load(tmp_path / "kept.json") == script
