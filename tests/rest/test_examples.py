"""The pipelines of examples/ that speak HTTP, run as their CI would run them."""

import subprocess
from pathlib import Path

import pytest

from gatepass.sandbox.environment import CALLER, Sandbox
from tests.e2e.tenant import wait_for
from tests.examples.files import documents
from tests.rest.organisation import Organisation


@pytest.fixture(scope="module")
def door(org: Organisation) -> str:
    return org.door()[1]


class Job:
    """The parts of a pipeline, each a shell of its own, in one folder."""

    def __init__(self, sandbox: Sandbox, folder: Path, key: str, opening: str, closing: str) -> None:
        self.opening, self.closing = opening, closing
        self._folder = folder
        ci = {"GITHUB_ENV": str(folder / "env"), "GITHUB_REPOSITORY": "shop/backend", "GITHUB_RUN_ID": "7"}
        ours = {"GATEPASS_URL": sandbox.api_url, "GATEPASS_API_KEY": key, "CI_PROJECT_PATH": "shop", "CI_JOB_ID": "7"}
        self._env = {**sandbox.env, **ci, **ours}

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-eo", "pipefail", "-c", f"touch env; set -a; . ./env; set +a\n{script}"]
        return subprocess.run(command, cwd=self._folder, env=self._env, capture_output=True, text=True, timeout=90)


@pytest.fixture(params=["github", "gitlab"])
def job(request: pytest.FixtureRequest, org: Organisation, sandbox: Sandbox, tmp_path: Path) -> Job:
    key, _ = org.key("sessions:read", "sessions:write", resources=[{"name": "db"}])
    if request.param == "github":
        (workflow,) = documents("github-actions/by-http.yaml")
        steps = {step["name"]: step for step in workflow["jobs"]["test"]["steps"] if "name" in step}
        assert steps["Close"]["if"] == "always()"
        opening = f"{steps['Start']['run']}\nset -a; . ./env; set +a\n{steps['Wait until it is open']['run']}"
        return Job(sandbox, tmp_path, key, opening, steps["Close"]["run"])
    (pipeline,) = documents("gitlab-ci/by-http.yml")
    found = pipeline["integration-tests"]
    return Job(sandbox, tmp_path, key, "\n".join(found["before_script"]), "\n".join(found["after_script"]))


def test_a_job_opens_and_closes(org: Organisation, door: str, job: Job) -> None:
    early = job.run(job.closing)
    assert early.returncode == 0, early.stderr
    opened = job.run(job.opening)
    assert opened.returncode == 0, opened.stdout + opened.stderr
    assert "db: APPLIED" in opened.stdout
    assert org.open_to(door) == {f"{CALLER}/32"}
    assert job.run(job.closing).returncode == 0
    wait_for(lambda: not org.open_to(door), "the door is closed")
    again = job.run(job.closing)
    assert again.returncode == 0, again.stderr


def test_a_job_that_gets_no_access_says_why(org: Organisation, door: str, job: Job) -> None:
    refused = job.run(job.opening.replace('"durationHours\\": 1', '"durationHours\\": 25'))
    assert refused.returncode != 0
    assert "durationHours" in refused.stdout
