"""The pipelines of examples/: their own shell, run as their own service account, against the real thing."""

import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.examples.files import EXAMPLES, document, documents
from tests.examples.site import BROKEN, LIMIT_SECONDS, NODE_ADDRESSES, Site

_TEKTON = re.compile(r"\$\(([a-zA-Z.]+)\)")
_ARGO = re.compile(r"\{\{([a-zA-Z.]+)\}\}")


@dataclass(frozen=True)
class Job:
    """The two scripts of a pipeline, with the shell and the variables that its CI would give them.

    `named_by` is the variable that names the session: with POD it is the pod that the job runs in, which closes it.
    """

    session: str
    shell: tuple[str, ...]
    opening: str
    closing: str
    variables: Mapping[str, str]
    addresses: frozenset[str]
    named_by: str = "SESSION"

    def open(self, site: Site) -> CompletedProcess[str]:
        """What comes before the tests."""
        return self.run(site, self.opening, self.session)

    def run(self, site: Site, script: str, session: str) -> CompletedProcess[str]:
        """A script that opens, for a session of this name."""
        if self.named_by == "POD":
            site.run_pod(session)
        return site.script(self.shell, script, **{**self.variables, self.named_by: session})

    def close(self, site: Site) -> CompletedProcess[str]:
        """What comes after them, whatever happened."""
        return site.script(self.shell, self.closing, **self.variables)


def _github(tmp_path: Path) -> Job:
    """Each step is a shell of its own; what one writes to GITHUB_ENV the next ones find in their environment."""
    (workflow,) = documents("github-actions/integration-tests.yaml")
    steps = {step["name"]: step for step in workflow["jobs"]["test"]["steps"] if "name" in step}
    names = list(steps)
    assert names == ["Sign in to the cluster", "Find the runner's address", "Open", "Test", "Close"]
    assert steps["Close"]["if"] == "always()"
    handed_on = tmp_path / "github-env"
    expressions = {"${{ github.run_id }}": "1658821493", "${{ github.run_attempt }}": "2"}
    session = workflow["jobs"]["test"]["env"]["SESSION"]
    for expression, value in expressions.items():
        session = session.replace(expression, value)
    opening = f"""\
{_step(steps["Find the runner's address"])}
set -a; . {shlex.quote(str(handed_on))}; set +a
{_step(steps["Open"])}
"""
    variables = {
        "SESSION": session,
        "RUNNER_ADDRESS": "203.0.113.21",
        "GITHUB_ENV": str(handed_on),
        "GITHUB_REPOSITORY": "shop/backend",
        "GITHUB_RUN_ID": "1658821493",
    }
    return Job(session, ("bash", "-e"), opening, steps["Close"]["run"], variables, frozenset({"203.0.113.21/32"}))


def _step(step: Mapping[str, Any]) -> str:
    return f"bash -e <<'STEP'\n{step['run']}STEP"


def _gitlab(_: Path) -> Job:
    """before_script and script are one shell, after_script is another."""
    (pipeline,) = documents("gitlab-ci/.gitlab-ci.yml")
    job = pipeline["integration-tests"]
    session = job["variables"]["SESSION"].replace("$CI_JOB_ID", "8412077731")
    variables = {
        "SESSION": session,
        "RUNNER_ADDRESS": "203.0.113.22",
        "KUBE_CONTEXT": "sandbox",
        "CI_PROJECT_PATH": "shop/backend",
        "CI_JOB_ID": "8412077731",
    }
    opening, closing = ("\n".join(job[part]) for part in ("before_script", "after_script"))
    shell = ("bash", "-eo", "pipefail")
    return Job(session, shell, opening, closing, variables, frozenset({"203.0.113.22/32"}))


def _tekton(_: Path) -> Job:
    """The run gives the Task no parameters, and the Task gives its own to the step that opens."""
    (use,) = document("tekton/pipeline.yaml", "PipelineRun")["spec"]["pipelineSpec"]["tasks"]
    task = document("tekton/pipeline.yaml", "Task", use["taskRef"]["name"])["spec"]
    step = task["steps"][0]
    assert step["name"] == "open"
    values = {f"params.{param['name']}": param["default"] for param in task["params"]}
    first = step["script"].splitlines()[0]
    assert first.startswith("#!/bin/")
    return _in_pod(
        "integration-tests-x7k2p-test-pod", (first.removeprefix("#!"),), step["script"], step, _TEKTON, values
    )


def _argo(_: Path) -> Job:
    """The first container of the template that is the entry."""
    workflow = document("argo-workflows/integration-tests.yaml", "Workflow")["spec"]
    (template,) = [each for each in workflow["templates"] if each["name"] == workflow["entrypoint"]]
    containers = {each["name"]: each for each in template["containerSet"]["containers"]}
    assert containers["main"]["dependencies"] == ["open"]
    parameters = workflow["arguments"]["parameters"]
    values = {f"workflow.parameters.{parameter['name']}": parameter["value"] for parameter in parameters}
    step = containers["open"]
    assert step["command"] == ["sh", "-euc"]
    (script,) = step["args"]
    return _in_pod("integration-tests-8hq2d", ("sh", "-eu"), script, step, _ARGO, values)


def _in_pod(
    pod: str,
    shell: tuple[str, ...],
    script: str,
    step: Mapping[str, Any],
    pattern: re.Pattern[str],
    values: Mapping[str, str],
) -> Job:
    """A step that opens for the pod that it runs in; nothing closes but the pod's end."""
    env = {each["name"]: each for each in step["env"]}
    assert env.pop("POD")["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    variables = {name: _filled(pattern, each["value"], values) for name, each in env.items()}
    return Job(pod, shell, script, "", {**variables, "POD": pod}, NODE_ADDRESSES, named_by="POD")


def _filled(pattern: re.Pattern[str], text: str, values: Mapping[str, str]) -> str:
    return pattern.sub(lambda match: values[match[1]], text)


_CLOSING = {"github": _github, "gitlab": _gitlab}
_IN_PODS = {"tekton": _tekton, "argo": _argo}
_PIPELINES = {**_CLOSING, **_IN_PODS}


@pytest.fixture
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Job:
    """The pipeline of one CI."""
    return _PIPELINES[request.param](tmp_path)


@pytest.mark.parametrize("job", _IN_PODS, indirect=True)
@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_job_opens_for_its_pod_and_closes_with_it(site: Site, job: Job, phase: str) -> None:
    pod = f"{job.session}-which-{phase.lower()}"
    opened = job.run(site, job.opening, pod)
    assert opened.returncode == 0, opened.stdout + opened.stderr
    assert site.session(pod)["status"]["phase"] == "Active"
    assert site.open_to() == job.addresses
    site.pod_says(pod, phase=phase)
    site.closed(pod, "OwnerFinished", job.addresses)


@pytest.mark.parametrize("job", _CLOSING, indirect=True)
def test_a_job_opens_and_closes(site: Site, job: Job) -> None:
    early = job.close(site)
    assert early.returncode == 0, f"nothing to close yet is no failure: {early.stderr}"
    opened = job.open(site)
    assert opened.returncode == 0, opened.stdout + opened.stderr
    assert site.session(job.session)["status"]["phase"] == "Active"
    assert site.open_to() == job.addresses
    closed = job.close(site)
    assert closed.returncode == 0, closed.stderr
    site.closed(job.session, "Manual", job.addresses)
    again = job.close(site)
    assert again.returncode == 0, f"an ended session can be closed again: {again.stderr}"


@pytest.mark.parametrize("job", _PIPELINES, indirect=True)
def test_a_job_that_gets_no_access_says_why_and_does_not_wait(site: Site, job: Job) -> None:
    started = time.monotonic()
    script = job.opening.replace("name: staging-db", f"name: {BROKEN}").replace("$RESOURCE", BROKEN)
    assert script != job.opening
    failed = job.run(site, script, f"{job.session}-failed")
    assert failed.returncode != 0
    assert f"ci/{BROKEN}: " in failed.stdout, failed.stdout + failed.stderr
    assert "does not exist" in failed.stdout
    assert time.monotonic() - started < LIMIT_SECONDS / 2


@pytest.mark.parametrize("job", _PIPELINES, indirect=True)
def test_a_job_that_may_not_use_the_resource_is_told_by_the_api_server(site: Site, job: Job) -> None:
    script = job.opening.replace("name: staging-db", "name: prod-db").replace("$RESOURCE", "prod-db")
    refused = job.run(site, script, f"{job.session}-refused")
    assert refused.returncode != 0
    assert 'may not use ProtectedResource ci/prod-db: needs the verb "use"' in refused.stderr


def test_a_script_keeps_its_session_alive_and_closes_it(site: Site) -> None:
    """It has put a beat into the Lease before what it runs is over."""
    site.kubectl("apply", "-n", "ci", "-f", str(EXAMPLES / "heartbeat" / "runner.yaml"))
    lease = "$(kubectl get accesssession it-beats --output jsonpath={.status.heartbeat.leaseName})"
    beaten = f'until kubectl get lease "{lease}" --output jsonpath={{.spec.renewTime}} | grep T; do sleep 0.1; done'
    script = (EXAMPLES / "heartbeat" / "open.sh").read_text().replace('"$@"', beaten)
    done = site.script(("sh",), script, SESSION="it-beats", ADDRESS="203.0.113.23")
    assert done.returncode == 0, done.stdout + done.stderr
    site.closed("it-beats", "Manual", {"203.0.113.23/32"})
