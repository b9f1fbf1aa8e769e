"""What a session ends with: its bounds, and that nothing of it changes later. The API server's own answers."""

from typing import Any

import pytest

from tests.manifests.tenants import Cluster, Person, refusal, says, session

JOB = {"apiVersion": "batch/v1", "kind": "Job", "name": "it-42"}


@pytest.fixture(scope="module")
def admin(cluster: Cluster) -> Person:
    admin = cluster.admin(cluster.namespace())
    admin.create(session(name="plain"))
    admin.create(session(name="bound", boundTo=JOB, heartbeat={"interval": "30s", "missed": 4}))
    return admin


@pytest.mark.parametrize(
    "spec",
    [
        {"boundTo": JOB},
        {"boundTo": {"apiVersion": "v1", "kind": "Pod", "name": "runner-7f.eu"}},
        {"boundTo": {"apiVersion": "tekton.dev/v1beta1", "kind": "PipelineRun", "name": "it"}},
        {"heartbeat": {}},
        {"heartbeat": {"interval": "5s", "missed": 2}},
        {"heartbeat": {"interval": "1h", "missed": 100}},
    ],
    ids=str,
)
def test_that_passes(admin: Person, spec: dict[str, Any]) -> None:
    made = admin.create(session(**spec), dry_run=True)["spec"]
    if spec == {"heartbeat": {}}:
        assert made["heartbeat"] == {"interval": "30s", "missed": 3}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"boundTo": {**JOB, "apiVersion": "batch"}}, ("spec.boundTo.apiVersion", "an API version", "got batch")),
        ({"boundTo": {**JOB, "apiVersion": "../v1"}}, ("spec.boundTo.apiVersion", "got ../v1")),
        ({"boundTo": {**JOB, "apiVersion": "a/b/v1"}}, ("spec.boundTo.apiVersion", "got a/b/v1")),
        ({"boundTo": {**JOB, "kind": "jobs"}}, ("spec.boundTo.kind", "a kind such as Job", "got jobs")),
        ({"boundTo": {**JOB, "name": "It"}}, ("spec.boundTo.name", "the name of an object", "got It")),
        ({"boundTo": {**JOB, "name": "a/b"}}, ("spec.boundTo.name", "got a/b")),
        ({"boundTo": {"kind": "Job", "name": "it"}}, ("spec.boundTo.apiVersion", "Required")),
        ({"heartbeat": {"interval": "4s"}}, ("spec.heartbeat.interval", "from 5s to 1h", "got 4s")),
        ({"heartbeat": {"interval": "2h"}}, ("spec.heartbeat.interval", "from 5s to 1h", "got 2h")),
        ({"heartbeat": {"missed": 1}}, ("spec.heartbeat.missed", "from 2 to 100", "got 1")),
        ({"heartbeat": {"missed": 101}}, ("spec.heartbeat.missed", "got 101")),
    ],
    ids=str,
)
def test_that_does_not(admin: Person, spec: dict[str, Any], words: tuple[str, ...]) -> None:
    says(refusal(admin.create, session(**spec), dry_run=True), *words)


@pytest.mark.parametrize(
    ("name", "spec", "words"),
    [
        ("plain", {"boundTo": JOB}, ("spec.boundTo is immutable: it was absent",)),
        ("plain", {"heartbeat": {}}, ("spec.heartbeat is immutable: it was absent",)),
        ("bound", {"boundTo": None}, ("spec.boundTo is immutable: it was Job it-42",)),
        ("bound", {"boundTo": {"name": "other"}}, ("spec.boundTo is immutable: it was Job it-42",)),
        ("bound", {"heartbeat": None}, ("spec.heartbeat is immutable: it was 4 times 30s",)),
        ("bound", {"heartbeat": {"missed": 5}}, ("spec.heartbeat is immutable: it was 4 times 30s",)),
    ],
    ids=str,
)
def test_nothing_changes_later(admin: Person, name: str, spec: dict[str, Any], words: tuple[str, ...]) -> None:
    says(refusal(admin.patch, "AccessSession", name, {"spec": spec}, dry_run=True), *words)
