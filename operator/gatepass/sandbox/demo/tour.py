"""The steps of the tour: each says what it shows, shows it, and checks it."""

import json
import math
import shlex
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.syntax import Syntax

from gatepass.sandbox.demo import manifests
from gatepass.sandbox.demo.watch import Watch

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import SecurityGroupRuleTypeDef

LIMIT_SECONDS: Final = 15
"""Far more than any step takes, so that one that needs longer has failed."""
_ENDS_IN = timedelta(seconds=3)


class ClaimError(Exception):
    """Something that the tour said is not so."""


class Tour:
    """The steps in their order; kubectl and boto3 go where KUBECONFIG and the AWS variables point."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._ec2 = boto3.client("ec2")
        self._groups: dict[str, str] = {}
        self._before: list[SecurityGroupRuleTypeDef] = []
        self._step = "the beginning"
        self._number = 0

    def run(self) -> bool:
        """Give the tour; False when a step failed, which is then named."""
        began = time.monotonic()
        try:
            self._groups_before()
            self._door()
            with Watch(manifests.NAMESPACE) as watch:
                self._first_session(watch)
            rule = self._rule_at_ec2()
            self._second_session(rule)
            self._first_ends(rule)
            self._second_expires(rule)
            self._refusals()
        except (ClaimError, BotoCoreError, ClientError, OSError, subprocess.TimeoutExpired) as error:
            self._console.print(f"\n[bold red]Failed in step {self._number}, {self._step}:[/]")
            self._console.print(str(error), markup=False)
            return False
        self._console.print(
            f"\n[bold green]Everything that was said held.[/] It took {time.monotonic() - began:.1f} s. "
            "To look around yourself: [bold].venv/bin/gatepass sandbox up[/]\n"
        )
        return True

    # the steps

    def _groups_before(self) -> None:
        self._begin("The security groups before")
        self._say(
            "Two databases, each behind a security group. The first lets an office in, by a rule that somebody "
            "made by hand. Gatepass has to leave it alone."
        )
        vpc = self._ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        for name in ("staging-db", "prod-db"):
            made = self._ec2.create_security_group(GroupName=name, Description=f"in front of {name}", VpcId=vpc)
            self._groups[name] = made["GroupId"]
        self._ec2.authorize_security_group_ingress(
            GroupId=self._groups["staging-db"],
            IpPermissions=[
                {
                    "IpProtocol": "tcp",
                    "FromPort": 5432,
                    "ToPort": 5432,
                    "IpRanges": [{"CidrIp": manifests.OFFICE, "Description": "the office, by hand"}],
                }
            ],
        )
        self._before = self._rules("staging-db")
        for name in self._groups:
            self._show_rules(name)
        self._claim(len(self._before) == 1, "the office's rule is the only one of staging-db")
        self._claim(not self._rules("prod-db"), "prod-db lets nobody in")

    def _door(self) -> None:
        self._begin("A door that sessions may open")
        self._say("The team of the database says which groups and ports, for how long at most, and who may use it.")
        self._kubectl("create", "namespace", manifests.NAMESPACE)
        self._apply(manifests.door("staging-db", self._groups["staging-db"]))
        self._apply(manifests.ROLE)
        self._kubectl("apply", "-f", "-", stdin=manifests.door("prod-db", self._groups["prod-db"]), quiet=True)
        self._kubectl("apply", "-f", "-", stdin=manifests.ACCOUNT, quiet=True)
        self._wait("condition=Ready", "protectedresource/staging-db", "protectedresource/prod-db")
        self._kubectl("get", "protectedresources")

    def _first_session(self, watch: Watch) -> None:
        self._begin("A job asks for access")
        self._say("The job's address, what it needs, and for how long:")
        before = time.monotonic()
        self._apply(manifests.session("it-42"), as_runner=True)
        self._wait("condition=Ready", "accesssession/it-42")
        both = time.monotonic() - before
        took = watch.ready_seconds("it-42", LIMIT_SECONDS)
        if took is None:
            raise ClaimError("a watch of the API server did not see it-42 become Ready")
        self._say(
            f"[bold green]Ready after {took * 1000:.0f} ms[/], as a watch of the API server sees it; "
            f"with the starts of both commands it was {both:.1f} s."
        )

    def _rule_at_ec2(self) -> str:
        self._begin("The rule as EC2 shows it")
        self._show_rules("staging-db")
        ours = self._ours()
        self._claim(len(ours) == 1, "there is one rule more")
        (rule,) = ours
        self._claim(
            (rule.get("CidrIpv4"), rule.get("FromPort"), rule.get("ToPort")) == (manifests.ADDRESS, 5432, 5432),
            f"it lets {manifests.ADDRESS} in, and nobody else, at port 5432",
        )
        self._claim(rule.get("Description", "").startswith("gatepass until="), "its description says until when")
        self._claim("gatepass.dev/owner" in _tags(rule), "its tag says whose it is")
        self._claim(self._others() == self._before, "the office's rule is as it was")
        self._claim(not self._rules("prod-db"), "prod-db is as closed as before")
        return rule["SecurityGroupRuleId"]

    def _second_session(self, rule: str) -> None:
        self._begin("A second job behind the same address")
        self._apply(manifests.session("it-43"), as_runner=True, show=False)
        self._wait("condition=Ready", "accesssession/it-43")
        self._kubectl("get", "accesssessions", "-o", "wide")
        self._claim(self._our_ids() == [rule], f"both share the one rule, {rule}")

    def _first_ends(self, rule: str) -> None:
        self._begin("The first job ends, and the rule stays")
        self._patch("it-42", {"stop": True})
        self._wait("condition=Settled", "accesssession/it-42")
        self._kubectl("get", "accesssessions")
        self._claim(self._field("it-42", "{.status.phase}") == "Cancelled", "it-42 has ended")
        self._claim(self._field("it-43", "{.status.phase}") == "Active", "it-43 goes on")
        self._claim(self._our_ids() == [rule], f"so {rule} is still there")

    def _second_expires(self, rule: str) -> None:
        self._begin("The second job's time is up, and the rule goes")
        end = datetime.fromtimestamp(math.ceil(time.time()), UTC) + _ENDS_IN
        self._say("Nobody stops this one. Its end is moved near, so that you need not wait an hour:")
        self._patch("it-43", {"notAfter": end.strftime("%Y-%m-%dT%H:%M:%SZ")})
        while self._our_ids() == [rule] and datetime.now(UTC) < end + timedelta(seconds=LIMIT_SECONDS):
            time.sleep(0.1)
        seen = datetime.now(UTC)
        self._claim(not self._our_ids(), f"{rule} is gone")
        self._claim(seen >= end, f"not before its time, and {max((seen - end).total_seconds(), 0):.1f} s after it")
        self._wait("jsonpath={.status.phase}=Expired", "accesssession/it-43")
        self._kubectl("get", "accesssessions")
        self._show_rules("staging-db")
        self._claim(self._rules("staging-db") == self._before, "the group is as it was in the beginning")

    def _refusals(self) -> None:
        self._begin("What the API server refuses")
        self._say("The job may use staging-db, and within its policy. It asks for another door:")
        self._refused(manifests.session("it-44", resource="prod-db"), 'needs the verb "use"')
        self._say("It asks for longer than the policy allows:")
        self._refused(manifests.session("it-45", duration="12h"), "is above the 2h")
        self._say("It asks for the whole internet:")
        self._refused(manifests.session("it-46", cidr="0.0.0.0/0"), "must have a prefix length of at least 8")
        self._claim(not self._our_ids() and not self._rules("prod-db"), "nothing was opened")

    # what the steps are made of

    def _begin(self, title: str) -> None:
        self._number += 1
        self._step = title
        self._console.print()
        self._console.rule(f"[bold]{self._number}  {title}", align="left", style="cyan")

    def _say(self, text: str) -> None:
        self._console.print(text)

    def _claim(self, holds: bool, text: str) -> None:
        if not holds:
            raise ClaimError(f"this does not hold: {text}")
        self._console.print(f"[green]✓[/] {text}")

    def _apply(self, text: str, *, as_runner: bool = False, show: bool = True) -> None:
        if show:
            self._show_yaml(text.strip())
        self._kubectl("apply", "-f", "-", *(manifests.AS_RUNNER if as_runner else ()), stdin=text)

    def _show_yaml(self, text: str) -> None:
        if self._console.is_terminal:
            self._console.print(Syntax(text, "yaml", theme="ansi_dark", background_color="default", word_wrap=True))
        else:
            self._console.print(text, markup=False, soft_wrap=True)

    def _patch(self, session: str, spec: dict[str, Any]) -> None:
        patch = json.dumps({"spec": spec})
        self._kubectl("patch", "accesssession", session, *manifests.AS_RUNNER, "--type=merge", "-p", patch)

    def _wait(self, what: str, *names: str) -> None:
        self._kubectl("wait", f"--for={what}", *names, f"--timeout={LIMIT_SECONDS}s")

    def _field(self, session: str, path: str) -> str:
        return self._kubectl("get", "accesssession", session, "-o", f"jsonpath={path}", quiet=True)

    def _refused(self, text: str, reason: str) -> None:
        answer = self._run(("apply", "-f", "-", *manifests.AS_RUNNER), text, quiet=False)
        told = " ".join(answer.stderr.split())
        self._console.print(told, style="yellow", markup=False)
        if answer.returncode == 0 or reason not in told:
            raise ClaimError(f"the API server did not refuse it because it {reason}")

    def _kubectl(self, *arguments: str, stdin: str = "", quiet: bool = False) -> str:
        """Run kubectl, and show the command and what it said."""
        answer = self._run(arguments, stdin, quiet=quiet)
        if answer.returncode != 0:
            raise ClaimError(f"kubectl {arguments[0]} failed: {answer.stderr.strip() or answer.stdout.strip()}")
        if not quiet:
            self._console.print(answer.stdout.rstrip(), markup=False, soft_wrap=True)
        return answer.stdout

    def _run(self, arguments: Sequence[str], stdin: str, *, quiet: bool) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", "--namespace", manifests.NAMESPACE, *arguments]
        if not quiet:
            self._console.print(f"$ kubectl {shlex.join(arguments)}", style="bold cyan", markup=False, soft_wrap=True)
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=False, timeout=2 * LIMIT_SECONDS
        )

    def _rules(self, name: str) -> "list[SecurityGroupRuleTypeDef]":
        filters = [{"Name": "group-id", "Values": [self._groups[name]]}]
        found = self._ec2.describe_security_group_rules(Filters=filters)["SecurityGroupRules"]  # type: ignore[arg-type]
        return [rule for rule in found if not rule["IsEgress"]]

    def _ours(self) -> "list[SecurityGroupRuleTypeDef]":
        return [rule for rule in self._rules("staging-db") if rule not in self._before]

    def _others(self) -> "list[SecurityGroupRuleTypeDef]":
        return [rule for rule in self._rules("staging-db") if rule in self._before]

    def _our_ids(self) -> list[str]:
        return [rule["SecurityGroupRuleId"] for rule in self._ours()]

    def _show_rules(self, name: str) -> None:
        rules = self._rules(name)
        self._console.print(
            f"[bold]{name}[/] ({self._groups[name]}): {len(rules) or 'no'} inbound rule{'s' * (len(rules) != 1)}"
        )
        for rule in rules:
            ports = f"{rule['IpProtocol']} {rule['FromPort']}"
            self._console.print(f"  {rule['SecurityGroupRuleId']}  {ports} from {rule.get('CidrIpv4')}")
            self._console.print(f"      {rule.get('Description', '')}", style="dim", markup=False)
            for key, value in _tags(rule).items():
                self._console.print(f"      {key}={value}", style="dim", markup=False, soft_wrap=True)


def _tags(rule: "SecurityGroupRuleTypeDef") -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in rule.get("Tags", [])}
