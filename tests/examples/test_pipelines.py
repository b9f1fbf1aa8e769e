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

from tests.examples.files import document, documents
from tests.examples.site import BROKEN, LIMIT_SECONDS, Site

_TEKTON = re.compile(r"\$\(([a-zA-Z.]+)\)")
_ARGO = re.compile(r"\{\{([a-zA-Z.]+)\}\}")


@dataclass(frozen=True)
class Job:
    """The two scripts of a pipeline, with the shell and the variables that its CI would give them."""

    session: str
    shell: tuple[str, ...]
    opening: str
    closing: str
    variables: Mapping[str, str]
    addresses: frozenset[str]
    close_shell: tuple[str, ...] = ()

    def open(self, site: Site, **changed: str) -> CompletedProcess[str]:
        """What comes before the tests."""
        return site.script(self.shell, self.opening, **{**self.variables, **changed})

    def close(self, site: Site) -> CompletedProcess[str]:
        """What comes after them, whatever happened."""
        return site.script(self.close_shell or self.shell, self.closing, **self.variables)


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
    """The Pipeline gives the parameters to the Tasks, and the Tasks give them to their scripts."""
    pipeline = document("tekton/pipeline.yaml", "Pipeline")["spec"]
    run = document("tekton/pipeline.yaml", "PipelineRun")["spec"]
    (close,) = pipeline["finally"]
    open_ = pipeline["tasks"][0]
    assert (open_["name"], close["name"]) == ("open", "close")
    given = {f"params.{param['name']}": param["value"] for param in run["params"]}
    context = {**given, "context.pipelineRun.uid": "0d7f3c1e-9d55-4a08-b1cf-5f0a0d9f0c11"}
    opening, variables = _task(open_, context)
    closing, others = _task(close, context)
    assert others.items() <= variables.items(), "both Tasks speak of the same session"
    addresses = frozenset({"203.0.113.7/32", "203.0.113.8/32"})
    return Job(variables["SESSION"], _shebang(opening), opening, closing, variables, addresses)


def _task(use: Mapping[str, Any], context: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    task = document("tekton/tasks.yaml", "Task", use["taskRef"]["name"])["spec"]
    defaults = {param["name"]: param["default"] for param in task["params"] if "default" in param}
    given = {param["name"]: _filled(_TEKTON, param["value"], context) for param in use["params"]}
    assert given.keys() | defaults.keys() == {param["name"] for param in task["params"]}
    (step,) = task["steps"]
    values = {f"params.{name}": value for name, value in {**defaults, **given}.items()}
    return step["script"], {each["name"]: _filled(_TEKTON, each["value"], values) for each in step["env"]}


def _shebang(script: str) -> tuple[str, ...]:
    first = script.splitlines()[0]
    assert first.startswith("#!/bin/")
    return (first.removeprefix("#!"),)


def _argo(_: Path) -> Job:
    """The templates that `main` and `onExit` name."""
    workflow = document("argo-workflows/integration-tests.yaml", "Workflow")["spec"]
    templates = {template["name"]: template for template in workflow["templates"]}
    first = templates[workflow["entrypoint"]]["steps"][0][0]["template"]
    values = {
        f"workflow.parameters.{parameter['name']}": parameter["value"]
        for parameter in workflow["arguments"]["parameters"]
    }
    values["workflow.uid"] = "4f2c8a9e-6c1b-4f53-9f44-2b9b9a6c7d00"
    opening, closing = templates[first]["script"], templates[workflow["onExit"]]["script"]
    variables = {each["name"]: _filled(_ARGO, each["value"], values) for each in opening["env"]}
    assert {each["name"]: _filled(_ARGO, each["value"], values) for each in closing["env"]}.items() <= variables.items()
    return Job(
        variables["SESSION"],
        tuple(opening["command"]),
        opening["source"],
        closing["source"],
        variables,
        frozenset({"203.0.113.7/32", "203.0.113.8/32"}),
        tuple(closing["command"]),
    )


def _filled(pattern: re.Pattern[str], text: str, values: Mapping[str, str]) -> str:
    return pattern.sub(lambda match: values[match[1]], text)


_PIPELINES = {"github": _github, "gitlab": _gitlab, "tekton": _tekton, "argo": _argo}


@pytest.fixture(params=_PIPELINES)
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Job:
    """The pipeline of one CI."""
    return _PIPELINES[request.param](tmp_path)


def test_a_job_opens_and_closes(site: Site, job: Job) -> None:
    early = job.close(site)
    assert early.returncode == 0, f"nothing to close yet is no failure: {early.stderr}"
    opened = job.open(site)
    assert opened.returncode == 0, opened.stdout + opened.stderr
    assert site.session(job.session)["status"]["phase"] == "Active"
    assert site.open_to() == job.addresses
    closed = job.close(site)
    assert closed.returncode == 0, closed.stderr
    site.closed(job.session)
    again = job.close(site)
    assert again.returncode == 0, f"an ended session can be closed again: {again.stderr}"


def test_a_job_that_gets_no_access_says_why_and_does_not_wait(site: Site, job: Job) -> None:
    started = time.monotonic()
    script = job.opening.replace("name: staging-db", f"name: {BROKEN}").replace("$RESOURCE", BROKEN)
    assert script != job.opening
    failed = site.script(job.shell, script, **{**job.variables, "SESSION": f"{job.session}-failed"})
    assert failed.returncode != 0
    assert f"ci/{BROKEN}: " in failed.stdout, failed.stdout + failed.stderr
    assert "does not exist" in failed.stdout
    assert time.monotonic() - started < LIMIT_SECONDS / 2


def test_a_job_that_may_not_use_the_resource_is_told_by_the_api_server(site: Site, job: Job) -> None:
    script = job.opening.replace("name: staging-db", "name: prod-db").replace("$RESOURCE", "prod-db")
    refused = site.script(job.shell, script, **{**job.variables, "SESSION": f"{job.session}-refused"})
    assert refused.returncode != 0
    assert 'may not use ProtectedResource ci/prod-db: needs the verb "use"' in refused.stderr
