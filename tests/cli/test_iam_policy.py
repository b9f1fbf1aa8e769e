"""`gatepass iam-policy`: from files, from standard input, from a cluster, and what it says when it cannot."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gatepass.cli import app
from gatepass.sandbox.environment import Sandbox
from tests.manifests.tenants import Cluster, resource

DB = """
kind: ProtectedResource
apiVersion: gatepass.dev/v1alpha1
metadata: {name: db, namespace: ci}
spec:
  aws: {region: eu-central-1, securityGroups: [sg-0aaa]}
  ports: [{port: 5432}]
"""
OTHERS = """
kind: ConfigMap
metadata: {name: unrelated}
---
---
kind: List
items:
- kind: ProtectedResource
  metadata: {name: cache}
  spec:
    aws: {region: eu-central-1, securityGroups: [sg-0bbb]}
    ports: [{port: 6379}]
"""
NOBODY_THERE = """
apiVersion: v1
kind: Config
current-context: away
contexts: [{name: away, context: {cluster: away, user: nobody}}]
clusters: [{name: away, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: nobody, user: {}}]
"""


def run(*words: str, stdin: str = "") -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["iam-policy", *words], input=stdin)
    return done.exit_code, done.stdout, done.stderr


def groups(printed: str) -> set[str]:
    policy: dict[str, Any] = json.loads(printed)
    return {arn.rpartition("/")[2] for arn in policy["Statement"][0]["Resource"]}


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    db, others = tmp_path / "db.yaml", tmp_path / "others.yaml"
    db.write_text(DB)
    others.write_text(OTHERS)
    return str(db), str(others)


def test_files_with_several_documents_and_lists(files: tuple[str, str]) -> None:
    status, printed, _ = run("-f", files[0], "-f", files[1])
    assert status == 0
    assert groups(printed) == {"sg-0aaa", "sg-0bbb"}


def test_standard_input(files: tuple[str, str]) -> None:
    status, printed, _ = run("-f", "-", stdin=f"{DB}---{OTHERS}")
    assert status == 0
    assert printed == run("-f", files[0], "-f", files[1])[1]


def test_the_account_is_in_the_arns(files: tuple[str, str]) -> None:
    status, printed, _ = run("-f", files[0], "--account", "111122223333")
    assert status == 0
    assert "arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0aaa" in printed


def test_dead_mans_switches_need_more(files: tuple[str, str]) -> None:
    role = "arn:aws:iam::111122223333:role/gatepass-switch"
    status, printed, _ = run("-f", files[0], "--switch-role", role)
    assert status == 0
    assert "iam:PassRole" in printed
    assert "iam:PassRole" not in run("-f", files[0])[1]


def test_finding_the_addresses_of_pods_needs_more(files: tuple[str, str]) -> None:
    status, printed, _ = run("-f", files[0], "--pods-in", "eu-west-1")
    assert status == 0
    assert "ec2:DescribeNatGateways" in printed
    assert "eu-west-1" in printed
    assert "ec2:DescribeNatGateways" not in run("-f", files[0])[1]


def test_an_identity_that_only_finds_the_addresses_of_pods() -> None:
    """As Gatepass's own is where every resource has a role or a Secret."""
    status, printed, complaint = run("-f", "-", "--pods-in", "eu-west-1", stdin="kind: ConfigMap")
    assert status == 0, complaint
    (statement,) = json.loads(printed)["Statement"]
    assert statement["Action"] == [
        "ec2:DescribeInstances",
        "ec2:DescribeNatGateways",
        "ec2:DescribeRouteTables",
        "ec2:DescribeVpcs",
    ]
    assert statement["Condition"] == {"StringEquals": {"aws:RequestedRegion": ["eu-west-1"]}}


@pytest.mark.parametrize(
    ("region", "partition"),
    [
        ("eu-west-1", "aws"),
        ("eusc-de-east-1", "aws-eusc"),
        ("us-gov-west-1", "aws-us-gov"),
        ("eu-isoe-west-1", "aws-iso-e"),
    ],
)
def test_every_part_of_aws_has_arns_of_its_own(region: str, partition: str) -> None:
    status, printed, complaint = run("-f", "-", stdin=DB.replace("eu-central-1", region))
    assert status == 0, complaint
    assert f"arn:{partition}:ec2:{region}:*:security-group/sg-0aaa" in printed


@pytest.mark.parametrize(
    ("words", "stdin", "said"),
    [
        (["-f", "-"], "kind: ConfigMap", "there are no ProtectedResources"),
        (["-f", "-"], "kind: ProtectedResource", "spec: Field required"),
        (["-f", "-"], DB.replace("eu-central-1", "Frankfurt"), "spec.aws.region"),
        (["-f", "-"], "a: [", "-: "),
        (["-f", "no/such/file.yaml"], "", "no/such/file.yaml"),
        (["-f", "-", "--switch-role", "switch"], DB, "--switch-role must be the ARN of a role, got switch"),
        (["-f", "-", "--pods-in", "Frankfurt"], DB, "--pods-in must be a Region such as eu-central-1, got Frankfurt"),
        (["-f", "-", "--pods-in", "cn-north-1"], DB, "one partition of AWS, and these are in aws, aws-cn"),
        (
            ["-f", "-"],
            f"{DB}\n---\n{DB.replace('eu-central-1', 'cn-north-1')}",
            "one partition of AWS, and these are in aws, aws-cn",
        ),
        (["-f", "-", "--account", "1234"], DB, "--account must be 12 digits, got 1234"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words: list[str], stdin: str, said: str) -> None:
    status, printed, complaint = run(*words, stdin=stdin)
    assert (status, printed) == (1, "")
    assert complaint.startswith("gatepass iam-policy: ")
    assert said in complaint


def test_the_resources_of_a_cluster(sandbox: Sandbox) -> None:
    cluster = Cluster(sandbox.control_plane)
    try:
        admin = cluster.admin(cluster.namespace())
        aws = {"region": "eu-central-1", "securityGroups": ["sg-0feedc0de"]}
        admin.create(resource(aws=aws))
        status, printed, complaint = run("--kubeconfig", str(sandbox.kubeconfig))
    finally:
        cluster.close()
    assert status == 0, complaint
    assert "sg-0feedc0de" in groups(printed)


def test_a_cluster_that_cannot_be_reached(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(NOBODY_THERE)
    status, printed, complaint = run("--kubeconfig", str(kubeconfig))
    assert (status, printed) == (1, "")
    assert complaint.startswith("gatepass iam-policy: ")
