"""The observer sees each way of breaking the promise, and nothing where there is none. The test plays the product."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest

from gatepass.sandbox.cloud import ACCOUNT, REGION
from gatepass.sandbox.environment import Sandbox
from gatepass.sandbox.kubeapi import KubeApi
from tests.conftest import AwsAccount
from tests.e2e.tenant import wait_for
from tests.observer.judge import Breach
from tests.observer.observer import Observer
from tests.observer.promise import duration, is_ours, selects, session_claim

OWNER = "test-install/observer"
ADDRESS = "203.0.113.7/32"
API = "/apis/gatepass.dev/v1alpha1"
MERGE = "application/merge-patch+json"
_numbers = count(1)


class Stage:
    """One group, one resource and one session, and the test in the place of the product."""

    def __init__(self, sandbox: Sandbox, account: AwsAccount, observer: Observer, admin: KubeApi) -> None:
        self.observer, self.admin, self.control = observer, admin, sandbox.ec2
        self.ec2 = account.client("ec2")
        self.namespace = f"observed-{next(_numbers)}"
        self.group = self.ec2.create_security_group(GroupName=self.namespace, Description="observed")["GroupId"]
        self.gatepass = sandbox.control_plane.api(sandbox.control_plane.account_token("gatepass-system", "gatepass"))
        self.admin.request("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        aws = {"region": REGION, "securityGroups": [self.group]}
        self._create("ProtectedResource", "protectedresources", "db", {"aws": aws, "ports": [{"port": 5432}]})
        spec = {"resources": [{"name": "db"}], "source": {"cidrs": [ADDRESS]}}
        self._create("AccessSession", "accesssessions", "it-1", spec)
        observer.catch_up()

    def _create(self, kind: str, plural: str, name: str, spec: dict[str, Any]) -> None:
        item = {"apiVersion": "gatepass.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        self.admin.request("POST", f"{API}/namespaces/{self.namespace}/{plural}", item)

    @property
    def session(self) -> str:
        """The path of the session."""
        return f"{API}/namespaces/{self.namespace}/accesssessions/it-1"

    def promise(self) -> None:
        """Tell the session that its door is open."""
        entry = {"name": "db", "namespace": self.namespace, "state": "Applied"}
        self.write({"phase": "Active", "resources": [entry]})

    def write(self, status: dict[str, Any]) -> None:
        """Write the session's status."""
        self.gatepass.request("PATCH", f"{self.session}/status", {"status": status}, MERGE)

    def end(self) -> None:
        """Stop the session, and latch that."""
        self.admin.request("PATCH", self.session, {"spec": {"stop": True}}, MERGE)
        self.write({"endedAt": "2026-01-01T00:00:00Z", "endedReason": "Manual"})

    def put(self, *, ours: bool = True, cidr: str = ADDRESS) -> str:
        """Put the rule, with our marks or without."""
        text = f"gatepass until=2030-01-01T00:00:00Z for={self.namespace}/db" if ours else "made by others"
        tags = [{"ResourceType": "security-group-rule", "Tags": [{"Key": "gatepass.dev/owner", "Value": OWNER}]}]
        ranges = [{"CidrIp": cidr, "Description": text}]
        answer = self.ec2.authorize_security_group_ingress(
            GroupId=self.group,
            IpPermissions=[{"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "IpRanges": ranges}],
            **({"TagSpecifications": tags} if ours else {}),
        )
        return str(answer["SecurityGroupRules"][0]["SecurityGroupRuleId"])

    def take(self, rule: str) -> None:
        """Take the rule away."""
        self.ec2.revoke_security_group_ingress(GroupId=self.group, SecurityGroupRuleIds=[rule])

    def breaches(self) -> list[Breach]:
        """What the observer has to say."""
        return self.observer.take_breaches()

    def close(self) -> None:
        """Leave nothing behind."""
        for path in (self.session, f"{API}/namespaces/{self.namespace}/protectedresources/db"):
            self.gatepass.request("PATCH", path, {"metadata": {"finalizers": None}}, MERGE)
            self.admin.request("DELETE", path)
        self.ec2.delete_security_group(GroupId=self.group)
        self.gatepass.close()


@contextmanager
def staged(sandbox: Sandbox, *, afterwards: bool) -> Iterator[Stage]:
    account = AwsAccount(sandbox.endpoint_url, sandbox.ec2, account=ACCOUNT)
    observer = Observer(sandbox, OWNER, resync_seconds=1.0, trusting=False, afterwards=afterwards)
    with observer, sandbox.control_plane.api() as admin, contextlib.closing(account):
        observer.catch_up()
        observer.take_breaches()  # of statuses that other tests have made up
        stage = Stage(sandbox, account, observer, admin)
        yield stage
        stage.close()


@pytest.fixture
def stage(sandbox: Sandbox) -> Iterator[Stage]:
    with staged(sandbox, afterwards=False) as stage:
        yield stage


def wait_for_breach(stage: Stage) -> Breach:
    """The one breach that there is, as soon as it is noticed."""
    (breach,) = wait_for(stage.breaches, "a breach")
    return breach


def test_nothing_is_reported_where_the_promise_is_kept(stage: Stage) -> None:
    stage.put()
    stage.promise()
    stage.observer.catch_up()
    stage.end()
    assert stage.breaches() == []


def test_a_live_rule_that_goes_is_reported(stage: Stage) -> None:
    rule = stage.put()
    stage.promise()
    assert stage.breaches() == []
    stage.take(rule)
    breach = wait_for_breach(stage)
    assert breach.kind == "closed too early"
    assert f"promised to {stage.namespace}/it-1" in str(breach)
    assert f"{ADDRESS} tcp 5432-5432 in {stage.group}" in str(breach)


def test_a_rule_that_the_test_removes_may_be_away_for_one_resync(stage: Stage) -> None:
    rule = stage.put()
    stage.promise()
    stage.observer.touching(rule)
    stage.take(rule)
    assert stage.breaches() == []
    assert wait_for_breach(stage).kind == "closed too early"


def test_a_rule_of_an_ended_session_is_reported(stage: Stage) -> None:
    stage.end()
    rule = stage.put()
    breach = wait_for_breach(stage)
    assert breach.kind == "left open"
    assert rule in breach.what
    assert breach.seconds > 2
    stage.take(rule)


def test_a_foreign_rule_that_goes_is_reported(stage: Stage) -> None:
    rule = stage.put(ours=False)
    assert stage.breaches() == []
    stage.take(rule)
    breach = wait_for_breach(stage)
    assert breach.kind == "touched a foreign rule"
    assert rule in breach.what


def test_a_foreign_rule_that_changes_is_reported(stage: Stage) -> None:
    rule = stage.put(ours=False)
    assert stage.breaches() == []
    stage.ec2.create_tags(Resources=[rule], Tags=[{"Key": "gatepass.dev/owner", "Value": OWNER}])
    assert wait_for_breach(stage).kind == "touched a foreign rule"
    stage.observer.touching(rule)
    stage.take(rule)
    assert stage.breaches() == []


def test_a_door_that_closes_for_a_moment_is_reported(stage: Stage) -> None:
    rule = stage.put()
    stage.promise()
    assert stage.breaches() == []
    stage.take(rule)
    stage.put()
    breach = wait_for_breach(stage)
    assert breach.kind == "closed too early"
    assert 0 < breach.seconds < 1


def test_a_rule_that_nobody_asked_for_is_reported(stage: Stage) -> None:
    rule = stage.put(cidr="203.0.113.8/32")
    breach = wait_for_breach(stage)
    assert breach.kind == "opened for nobody"
    assert f"{rule} in {stage.group}: 203.0.113.8/32" in breach.what


def test_an_end_that_nobody_wanted_is_reported(stage: Stage) -> None:
    stage.write({"endedAt": "2026-01-01T00:00:00Z", "endedReason": "Expired"})
    breach = wait_for_breach(stage)
    assert breach.kind == "ended without cause"
    assert breach.what == f"{stage.namespace}/it-1: Expired at 2026-01-01T00:00:00Z"


def test_an_end_that_is_taken_back_is_reported(stage: Stage) -> None:
    stage.end()
    assert stage.breaches() == []
    stage.write({"endedAt": None, "endedReason": None})
    assert wait_for_breach(stage).kind == "an end was taken back"


def test_what_was_written_down_is_judged_afterwards(sandbox: Sandbox) -> None:
    """In the order in which it happened: when it is asked first, the door is open again, and later all is over."""
    with staged(sandbox, afterwards=True) as stage:
        first = stage.put()
        stage.promise()
        stage.take(first)
        again = stage.put()
        (breach,) = stage.breaches()
        assert breach.kind == "closed too early"
        stage.end()
        stage.take(again)
        assert stage.breaches() == []
        assert stage.observer.summary()["closed"] == 1


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1h30m", 5400), ("1.5h", 5400), ("24h", 86400)])
def test_durations(text: str, seconds: float) -> None:
    assert duration(text).total_seconds() == seconds


def test_marks() -> None:
    marked = {"description": "gatepass static for=ci/db", "tagSet": [{"key": "gatepass.dev/owner", "value": OWNER}]}
    assert is_ours(marked, OWNER)
    assert not is_ours(marked, "another-install")
    assert not is_ours({**marked, "tagSet": []}, OWNER)
    assert not is_ours({**marked, "description": "gatepass-like"}, OWNER)


LABELS = {"team": "data", "env": "prod"}


@pytest.mark.parametrize(
    ("operator", "key", "values", "matches"),
    [
        ("In", "team", ["data", "web"], True),
        ("In", "team", ["web"], False),
        ("In", "zone", ["web"], False),
        ("NotIn", "team", ["web"], True),
        ("NotIn", "team", ["data"], False),
        ("NotIn", "zone", ["data"], True),
        ("Exists", "env", [], True),
        ("Exists", "zone", [], False),
        ("DoesNotExist", "zone", [], True),
        ("DoesNotExist", "env", [], False),
    ],
)
def test_selectors(operator: str, key: str, values: list[str], matches: bool) -> None:
    wanted = [{"key": key, "operator": operator, "values": values}]
    assert selects({"matchExpressions": wanted}, LABELS) is matches
    assert selects({"matchLabels": {"team": "data"}, "matchExpressions": wanted}, LABELS) is matches
    assert not selects({"matchLabels": {"team": "web"}, "matchExpressions": wanted}, LABELS)


@pytest.mark.parametrize(
    ("policy", "spec", "entitled"),
    [
        ({}, {}, True),
        ({"minPrefixLength": {"ipv4": 24}}, {"source": {"cidrs": ["203.0.113.0/24"]}}, True),
        ({"minPrefixLength": {"ipv4": 25}}, {"source": {"cidrs": ["203.0.113.0/24"]}}, False),
        ({}, {"source": {"cidrs": ["10.0.0.1/32"]}}, False),
        ({"allowPrivateAddresses": True}, {"source": {"cidrs": ["10.0.0.1/32"]}}, True),
        ({"allowPrivateAddresses": True}, {"source": {"cidrs": ["127.0.0.1/32"]}}, False),
        ({"maxDuration": "30m"}, {"duration": "31m"}, False),
        ({"requireReason": True}, {"reason": " "}, False),
        ({"requireReason": True}, {"reason": "tests"}, True),
        ({"allowedNamespaces": {"from": "Same"}}, {}, True),
        ({"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"env": "prod"}}}}, {}, True),
        ({"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"env": "test"}}}}, {}, False),
        ({}, {"stop": True}, False),
    ],
)
def test_bounds(policy: dict[str, Any], spec: dict[str, Any], entitled: bool) -> None:
    namespaces = {"ci": {"metadata": {"name": "ci", "labels": LABELS}}}
    made = {"namespace": "ci", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    aws = {"region": REGION, "securityGroups": ["sg-1"]}
    resource = {
        "metadata": {**made, "name": "db"},
        "spec": {"aws": aws, "ports": [{"port": 5432}], "policy": policy},
    }
    whole = {"resources": [{"name": "db"}], "source": {"cidrs": [ADDRESS]}, "duration": "10m", **spec}
    session = {"metadata": {**made, "name": "it-1"}, "spec": whole}
    assert (session_claim(session, resource, namespaces) is not None) is entitled
