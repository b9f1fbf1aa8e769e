"""`gatepass sweep`: with AWS credentials alone, as from a machine that knows no cluster."""

import json
import os
import pty
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from subprocess import Popen
from typing import Any

import boto3
import pytest
from typer.testing import CliRunner

from gatepass.cli import app
from gatepass.core.rules import Mark
from gatepass.core.types.common import format_time
from gatepass.sandbox.cloud import MISLEADING
from gatepass.sandbox.ec2.faults import Fault
from tests.conftest import AwsAccount

LOST = "0f3c/gatepass-system/gatepass"
OTHER = "77aa/gatepass-system/gatepass"
AWAY = "eu-west-1"
_numbers = count(1)


@dataclass(frozen=True)
class Rules:
    """The rules of the scene by what they are, and the group that all but one are in."""

    group: str
    expired: str
    open: str
    static: str
    untagged: str
    undescribed: str
    others: str
    away: str


@dataclass
class Account:
    """What is in the groups of an account, and what the command says about it."""

    aws: AwsAccount

    def put(self, description: str, owner: str | None, group: str, region: str | None = None) -> str:
        tags = [{"ResourceType": "security-group-rule", "Tags": [{"Key": "gatepass.dev/owner", "Value": owner}]}]
        ranges = [{"CidrIp": f"198.51.{next(_numbers)}.1/32", "Description": description}]
        made = self.aws.client("ec2", **({"region_name": region} if region else {})).authorize_security_group_ingress(
            GroupId=group,
            IpPermissions=[{"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "IpRanges": ranges}],
            **({"TagSpecifications": tags} if owner else {}),
        )
        return str(made["SecurityGroupRules"][0]["SecurityGroupRuleId"])

    def group(self, region: str | None = None) -> str:
        ec2 = self.aws.client("ec2", **({"region_name": region} if region else {}))
        return str(ec2.create_security_group(GroupName=f"sweep-{next(_numbers)}", Description="tests")["GroupId"])

    def scene(self) -> Rules:
        group, away = self.group(), self.group(AWAY)
        now = datetime.now(UTC)
        past, future = (str(Mark("ci/db", now + timedelta(hours=hours))) for hours in (-1, 1))
        return Rules(
            group=group,
            expired=self.put(past, LOST, group),
            open=self.put(future, LOST, group),
            static=self.put(str(Mark("ci/db", None, "office")), LOST, group),
            untagged=self.put(past, None, group),
            undescribed=self.put("made by others", LOST, group),
            others=self.put(past, OTHER, group),
            away=self.put(past, LOST, away, AWAY),
        )

    def left(self) -> set[str]:
        found = [
            rule
            for region in (self.aws.region, AWAY)
            for rules in self.aws.control.rules(region=region, account=self.aws.account).values()
            for rule in rules or ()
        ]
        return {rule["securityGroupRuleId"] for rule in found}

    def calls(self, action: str) -> list[dict[str, Any]]:
        entries = self.aws.control.log()
        return [each for each in entries if each.get("account") == self.aws.account and each.get("action") == action]


@pytest.fixture
def account(aws: AwsAccount, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    """A fresh account whose credentials are in the environment; without a cluster, so without KUBECONFIG."""
    for name in (*MISLEADING, "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL": aws.endpoint_url,
        "AWS_ACCESS_KEY_ID": aws.access_key,
        "AWS_SECRET_ACCESS_KEY": aws.secret_key,
        "AWS_REGION": aws.region,
        "AWS_DEFAULT_REGION": aws.region,
    }.items():
        monkeypatch.setenv(name, value)
    return Account(aws)


def run(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["sweep", *words])
    return done.exit_code, done.stdout, done.stderr


def states(printed: str) -> dict[str, str]:
    return {row["id"]: row["state"] for row in json.loads(printed)["rules"]}


def results(printed: str) -> dict[str, str]:
    return {row["id"]: row["result"] for row in json.loads(printed)["rules"]}


def test_it_lists_and_touches_nothing(account: Account) -> None:
    rules = account.scene()
    before = account.left()
    status, printed, _ = run("--output", "json")
    assert status == 0
    assert states(printed) == {
        rules.expired: "expired",
        rules.open: "open",
        rules.static: "static",
        rules.undescribed: "one mark",
        rules.others: "expired",
    }
    (row,) = [row for row in json.loads(printed)["rules"] if row["id"] == rules.expired]
    assert row["owner"] == LOST
    assert (row["account"], row["region"], row["group"]) == (account.aws.account, account.aws.region, rules.group)
    assert (row["resource"], row["rule"].split()[1:]) == ("ci/db", ["tcp", "5432"])
    assert account.left() == before


def test_lines_with_tabs_where_there_is_no_terminal(account: Account) -> None:
    rules = account.scene()
    status, printed, _ = run("--owner", LOST)
    assert status == 0
    head, *lines = [line.split("\t") for line in printed.splitlines()]
    assert head[:4] == ["ACCOUNT", "REGION", "GROUP", "ID"]
    assert {line[3] for line in lines} == {rules.expired, rules.open, rules.static, rules.undescribed}
    assert {line[-1] for line in lines} == {LOST}


def test_regions_are_where_it_is_told(account: Account) -> None:
    rules = account.scene()
    assert rules.away not in states(run("-o", "json")[1])
    assert set(states(run("-o", "json", "--region", AWAY)[1])) == {rules.away}
    both = set(states(run("-o", "json", "--region", AWAY, "--region", account.aws.region)[1]))
    assert {rules.away, rules.expired} <= both
    assert set(states(run("-o", "json", "--all-regions")[1])) == both


def test_expired_revokes_what_is_past_its_time_of_every_installation(account: Account) -> None:
    rules = account.scene()
    status, printed, told = run("--expired", "--yes", "-o", "json")
    assert status == 0
    assert results(printed) == {rules.expired: "revoked", rules.others: "revoked"}
    assert told == "revoked 2 of 2 rules\n"
    assert account.left() == {rules.open, rules.static, rules.untagged, rules.undescribed, rules.away}
    assert len(account.calls("RevokeSecurityGroupIngress")) == 1


def test_expired_of_one_installation(account: Account) -> None:
    rules = account.scene()
    before = account.left()
    assert run("--expired", "--yes", "--owner", OTHER)[0] == 0
    assert account.left() == before - {rules.others}


def test_all_of_an_installation(account: Account) -> None:
    rules = account.scene()
    status, printed, told = run("--all", "--owner", LOST, "--yes", "-o", "json", "--all-regions")
    assert status == 0
    assert "left alone, with one of the two marks: 1;" in told
    assert set(results(printed)) == {rules.expired, rules.open, rules.static, rules.away}
    assert account.left() == {rules.untagged, rules.undescribed, rules.others}


def test_an_installation_of_which_nothing_is_found_is_named(account: Account) -> None:
    account.scene()
    status, _, told = run("--all", "--owner", "misspelt", "--yes")
    assert status == 0
    assert "no rule of misspelt found; without --owner those of every installation are listed" in told


def test_what_the_margin_covers_is_left(account: Account) -> None:
    group = account.group()
    just_over = account.put(str(Mark("ci/db", datetime.now(UTC) - timedelta(minutes=14))), LOST, group)
    assert run("--expired", "--yes")[0] == 0
    assert just_over in account.left()


def on_a_terminal(answer: Callable[[], str], *words: str) -> tuple[int, str]:
    """Run it as a person does, who is asked and then answers; what the screen shows, and the status."""
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "gatepass", "sweep", *words]
    with Popen(command, stdin=its, stdout=its, stderr=its, env={**os.environ, "COLUMNS": "200"}) as process:
        os.close(its)
        screen = b""
        with suppress(OSError):  # how Linux says that the other side has closed
            while shown := os.read(ours, 65536):
                if b"[y/N]" not in screen and b"[y/N]" in screen + shown:
                    os.write(ours, f"{answer()}\n".encode())
                screen += shown
    os.close(ours)
    return process.returncode, screen.decode()


def test_nothing_goes_without_a_yes(account: Account) -> None:
    account.scene()
    before = account.left()
    status, _, told = run("--expired")
    assert status == 2
    assert "--yes" in told
    assert account.left() == before


@pytest.mark.parametrize("regions", [["--region", AWAY, "--region", "eu-central-1"], ["--all-regions"]])
def test_a_region_that_fails_is_told_and_the_others_go_on(account: Account, regions: list[str]) -> None:
    rules = account.scene()
    account.aws.control.set_faults(
        Fault(kind="deny", action="DescribeSecurityGroupRules", account=account.aws.account, region="eu-central-1")
    )
    status, printed, told = run("--expired", "--yes", "-o", "json", *regions)
    assert status == 1
    assert results(printed) == {rules.away: "revoked"}
    assert [each["region"] for each in json.loads(printed)["failed"]] == ["eu-central-1"]
    assert "eu-central-1: UnauthorizedOperation" in told


def test_what_cannot_be_revoked_is_told_for_each_rule(account: Account) -> None:
    rules = account.scene()
    locked = account.group()
    stays = account.put(str(Mark("ci/db", datetime.now(UTC) - timedelta(hours=1))), LOST, locked)
    account.aws.control.set_faults(Fault(kind="deny", action="RevokeSecurityGroupIngress", group=locked))
    status, printed, told = run("--expired", "--yes", "-o", "json")
    assert status == 1
    assert results(printed) == {rules.expired: "revoked", rules.others: "revoked", stays: "failed"}
    (row,) = [row for row in json.loads(printed)["rules"] if row["id"] == stays]
    assert row["error"].startswith("UnauthorizedOperation")
    assert told == "revoked 2 of 3 rules\n"


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "error", "status": 503, "code": "RequestLimitExceeded", "times": 2},
        {"kind": "error", "times": 1, "when": "after"},
        {"kind": "reset", "times": 1},
        {"kind": "reset", "times": 1, "when": "after"},
    ],
    ids=str,
)
@pytest.mark.parametrize("action", ["DescribeSecurityGroupRules", "RevokeSecurityGroupIngress"])
def test_what_may_work_in_a_moment_is_tried_again(account: Account, action: str, fault: dict[str, Any]) -> None:
    rules = account.scene()
    account.aws.control.set_faults(Fault(action=action, account=account.aws.account, **fault))
    status, printed, _ = run("--expired", "--yes", "-o", "json")
    assert status == 0
    assert results(printed) == {rules.expired: "revoked", rules.others: "revoked"}
    assert rules.expired not in account.left()


def test_more_rules_than_fit_into_a_page_or_a_call(account: Account) -> None:
    account.aws.control.set_quota(1100, account=account.aws.account)
    group, past = account.group(), format_time(datetime.now(UTC) - timedelta(hours=1))
    ranges = [
        {"CidrIp": f"10.0.{number // 250}.{number % 250}/32", "Description": f"gatepass until={past} for=ci/db"}
        for number in range(1005)
    ]
    account.aws.client("ec2").authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": ranges}],
        TagSpecifications=[
            {"ResourceType": "security-group-rule", "Tags": [{"Key": "gatepass.dev/owner", "Value": LOST}]}
        ],
    )
    status, _, told = run("--expired", "--yes")
    assert (status, told) == (0, "revoked 1005 of 1005 rules\n")
    assert len(account.calls("DescribeSecurityGroupRules")) == 2
    assert len(account.calls("RevokeSecurityGroupIngress")) == 2
    assert account.left() == set()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--all", "--yes"], "--all needs --owner"),
        (["--all", "--expired", "--owner", LOST, "--yes"], "--expired and --all exclude each other"),
        (["--region", AWAY, "--all-regions"], "--region and --all-regions exclude each other"),
        (["--owner", "*"], "--owner must match"),
        (["--region", "Frankfurt"], "--region must be a Region"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], said: str) -> None:
    status, printed, told = run(*words)
    assert (status, printed) == (2, "")
    assert told.startswith("gatepass sweep: ")
    assert said in told


def test_credentials_that_aws_refuses(account: Account) -> None:
    account.aws.control.set_credential(account.aws.access_key, refused=True)
    status, _, told = run()
    assert status == 1
    assert "does not accept the credentials" in told


def test_a_person_is_asked(account: Account) -> None:
    rules = account.scene()
    before = account.left()
    status, screen = on_a_terminal(lambda: "n", "--expired")
    assert status == 1
    assert rules.expired in screen
    assert f"installation {LOST}" in screen
    assert account.left() == before


@pytest.mark.parametrize(
    ("owner", "shown"),
    [
        ("[/x]", "[/x]"),
        ("[bold]lost[/bold]", "[bold]lost[/bold]"),
        ("lost\x9b2J", "lost\ufffd2J"),
        ("lost\tand found", "lost\ufffdand found"),
    ],
)
def test_a_tag_that_anybody_may_write_is_shown_as_it_is(account: Account, owner: str, shown: str) -> None:
    id_ = account.put(str(Mark("ci/db", datetime.now(UTC) - timedelta(days=1))), owner, account.group())
    status, screen = on_a_terminal(lambda: "")
    assert status == 0
    assert id_ in screen
    assert f"installation {shown}" in screen


@pytest.mark.parametrize("until", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"])
def test_a_time_that_we_never_write_is_no_mark_of_ours(account: Account, until: str) -> None:
    rules = account.scene()
    odd = account.put(f"gatepass until={until} for=ci/db", LOST, account.group())
    status, printed, _ = run("--expired", "--yes", "-o", "json")
    assert status == 0
    assert results(printed)[rules.expired] == "revoked"
    assert odd in account.left()


def test_what_is_extended_while_a_person_thinks_is_left(account: Account) -> None:
    rules = account.scene()
    before = account.left()

    def extended_meanwhile() -> str:
        later = str(Mark("ci/db", datetime.now(UTC) + timedelta(hours=1)))
        account.aws.client("ec2").update_security_group_rule_descriptions_ingress(
            GroupId=rules.group,
            SecurityGroupRuleDescriptions=[{"SecurityGroupRuleId": rules.expired, "Description": later}],
        )
        return "y"

    status, screen = on_a_terminal(extended_meanwhile, "--expired")
    assert status == 0
    assert "revoked 1 of 1 rule" in screen
    assert account.left() == before - {rules.others}


def test_the_region_of_the_credentials(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    status, _, told = run()
    assert status == 2
    assert "--all-regions" in told
