"""What may change in an object that exists, and what may not: the API server's own answers."""

from typing import Any

import pytest

from tests.manifests.tenants import Cluster, Person, refusal, resource, says, session

AWS = {"region": "eu-central-1", "securityGroups": ["sg-0aaa"]}
ROLE = {"roleARN": "arn:aws:iam::123456789012:role/gatepass"}
SECRET = {"secretRef": {"name": "aws"}}


@pytest.fixture(scope="module")
def admin(cluster: Cluster) -> Person:
    return cluster.admin(cluster.namespace())


@pytest.fixture(scope="module")
def objects(admin: Person) -> Person:
    admin.create(session(name="plain"))
    admin.create(session(name="stopped", stop=True))
    admin.create(session(name="bounded", notAfter="2036-11-22T18:00:00Z"))
    admin.create(session(name="by-pod", source={"pod": {"name": "runner"}}))
    admin.create(session(name="claimed", source={"claim": {}}))
    admin.create(resource("plain", policy={"sources": ["cidrs", "pod", "claim", "operator"]}))
    admin.create(resource("with-role", aws={**AWS, "credentials": ROLE}))
    return admin


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("plain", {"duration": "2h"}),
        ("plain", {"duration": "1m"}),
        ("plain", {"stop": True}),
        ("plain", {"notAfter": "2036-11-22T18:00:00Z"}),
        ("plain", {"reason": "run 42", "ttlAfterEnded": "Never"}),
        ("stopped", {"reason": "run 42"}),
        ("bounded", {"notAfter": "2036-11-22T17:59:59Z"}),
        ("bounded", {"notAfter": "2036-11-22T19:00:00+01:00"}),
    ],
    ids=str,
)
def test_of_a_session_that_pass(objects: Person, name: str, spec: dict[str, Any]) -> None:
    objects.patch("AccessSession", name, {"spec": spec}, dry_run=True)


@pytest.mark.parametrize(
    ("name", "spec", "words"),
    [
        ("plain", {"resources": [{"name": "other"}]}, ("spec.resources", 'immutable: it was ["db"]')),
        ("plain", {"source": {"cidrs": ["203.0.113.8/32"]}}, ("spec.source", 'immutable: it was ["203.0.113.7/32"]')),
        ("by-pod", {"source": {"pod": {"name": "other"}}}, ("spec.source", 'immutable: it was ["pod runner"]')),
        ("by-pod", {"source": {"pod": None, "operator": {}}}, ("spec.source", 'immutable: it was ["pod runner"]')),
        ("claimed", {"source": {"claim": {"within": "1h"}}}, ("spec.source", 'it was ["claim within 5m"]')),
        ("plain", {"duration": "25h"}, ("spec.duration", "got 25h", "from 1m to 24h")),
        ("stopped", {"stop": False}, ("spec.stop", "may not be set back from true")),
        ("stopped", {"stop": None}, ("spec.stop", "may not be set back from true")),
        (
            "bounded",
            {"notAfter": "2036-11-22T18:00:01Z"},
            ("spec.notAfter", "may only move earlier", "2036-11-22T18:00:00Z", "2036-11-22T18:00:01Z"),
        ),
        ("bounded", {"notAfter": None}, ("spec.notAfter", "2036-11-22T18:00:00Z", "is now absent")),
    ],
    ids=str,
)
def test_of_a_session_that_do_not(objects: Person, name: str, spec: dict[str, Any], words: tuple[str, ...]) -> None:
    says(refusal(objects.patch, "AccessSession", name, {"spec": spec}, dry_run=True), *words)


@pytest.mark.parametrize(
    ("name", "aws", "words"),
    [
        ("plain", {"region": "us-east-1"}, ("spec.aws", "region is immutable", "eu-central-1")),
        ("plain", {"credentials": ROLE}, ("spec.aws", "credentials are immutable")),
        ("with-role", {"credentials": None}, ("spec.aws", "credentials are immutable")),
        ("with-role", {"credentials": {"roleARN": None, **SECRET}}, ("spec.aws", "credentials are immutable")),
    ],
    ids=str,
)
def test_of_a_resource_that_do_not(objects: Person, name: str, aws: dict[str, Any], words: tuple[str, ...]) -> None:
    says(refusal(objects.patch, "ProtectedResource", name, {"spec": {"aws": aws}}, dry_run=True), *words)


def test_of_a_resource_that_pass(objects: Person) -> None:
    for spec in ({"aws": {"securityGroups": ["sg-0bbb"]}}, {"ports": [{"port": 1}]}, {"policy": {"maxDuration": "1h"}}):
        objects.patch("ProtectedResource", "plain", {"spec": spec}, dry_run=True)


def test_of_an_ended_session(cluster: Cluster, objects: Person) -> None:
    objects.create(session(name="ended"))
    ended = {"status": {"endedAt": "2026-11-22T18:00:00Z", "endedReason": "Manual"}}
    cluster.gatepass(objects.namespace).patch("AccessSession", "ended", ended, subresource="status")
    for spec in ({"stop": True}, {"ttlAfterEnded": "1h"}):
        objects.patch("AccessSession", "ended", {"spec": spec}, dry_run=True)
    for spec in ({"duration": "2h"}, {"duration": "1m"}, {"notAfter": "2036-11-22T18:00:00Z"}, {"reason": "more"}):
        error = refusal(objects.patch, "AccessSession", "ended", {"spec": spec}, dry_run=True)
        says(error, "spec is final once status.endedAt is set")
