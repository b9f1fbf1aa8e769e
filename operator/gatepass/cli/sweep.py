"""`gatepass sweep`: what installations have left in AWS, for when their cluster is lost."""

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from gatepass.core.errors import ProviderError
    from gatepass.providers.aws_sweep import AwsSweep, Finding, Found


def sweep(
    region: Annotated[
        list[str] | None, typer.Option(help="Where to look; may be repeated.", show_default="the credentials' Region")
    ] = None,
    all_regions: Annotated[
        bool, typer.Option("--all-regions", help="Look in every Region that is enabled for the account.")
    ] = False,
    owner: Annotated[
        str | None, typer.Option(help="The install id of one installation.", show_default="every installation")
    ] = None,
    expired: Annotated[
        bool, typer.Option("--expired", help="Revoke what is 15 minutes past its `until`; never what is static.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Revoke all rules of --owner: what is static or still granted, too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before revoking.")] = False,
    output: Annotated[
        Literal["text", "json"], typer.Option("--output", "-o", help="A table, or JSON for machines.")
    ] = "text",
) -> None:
    """List the rules that Gatepass has put into AWS security groups, and revoke what nobody closes any more.

    Needs no cluster: only AWS credentials, as the AWS command line finds them, that may call
    ec2:DescribeSecurityGroupRules, and to revoke ec2:RevokeSecurityGroupIngress. A rule is revoked only when it
    carries both of Gatepass's marks in full, the tag and the description; one with a single mark is listed and left
    alone. Exits with 1 when a Region could not be looked at, or a rule not be revoked.
    """
    import asyncio
    import re

    from gatepass import logs
    from gatepass.core.rules import OWNER

    logs.warnings_only()
    if region and all_regions:
        _refuse("--region and --all-regions exclude each other")
    if expired and everything:
        _refuse("--expired and --all exclude each other")
    if wrong := next((name for name in region or () if not re.fullmatch(r"[a-z]{2,4}(-[a-z]+)+-\d", name)), None):
        _refuse(f"--region must be a Region such as eu-central-1, got {wrong!r}")
    if everything and owner is None:
        _refuse("--all needs --owner: the install id whose rules are to go")
    if owner is not None and not re.fullmatch(OWNER, owner):
        _refuse(f"--owner must match {OWNER}, got {owner!r}")
    wanted = "expired" if expired else "all" if everything else None
    if wanted and not yes and not sys.stdin.isatty():
        _refuse("there is no terminal to ask on: say --yes to revoke without being asked")
    if not asyncio.run(_sweep(region or (), all_regions, owner, wanted, yes, output)):
        raise typer.Exit(1)


async def _sweep(
    given: "Sequence[str]", all_regions: bool, owner: str | None, wanted: str | None, yes: bool, output: str
) -> bool:
    """Answers whether everything could be looked at, and everything chosen be revoked."""
    from datetime import UTC, datetime

    from gatepass.core.errors import ProviderError
    from gatepass.providers.aws_sweep import AwsSweep

    aws = AwsSweep()
    try:
        regions = await aws.regions() if all_regions else given or _own_region()
        finding = await aws.find(regions, owner)
        now = datetime.now(UTC)
        if wanted is None:
            _show(finding, now, output)
            return not finding.failed
        return await _close(aws, finding, owner, _chooser(wanted), yes, output)
    except ProviderError as error:
        _fail(_told(error))
    finally:
        aws.close()


async def _close(
    aws: "AwsSweep", finding: "Finding", owner: str | None, chosen: "Callable[[Found], bool]", yes: bool, output: str
) -> bool:
    from dataclasses import replace
    from datetime import UTC, datetime

    from gatepass.core.sweep import Remnant, remnant

    going = [found for found in finding.rules if chosen(found)]
    if going and not yes:
        _show(replace(finding, rules=going), datetime.now(UTC), "text", err=True)
        if not typer.confirm(f"Revoke {_counted(going)}?", err=True):
            _fail("nothing was revoked")
        # A person may have thought for long; whoever is still at work may have moved `until` later meanwhile.
        seen = await aws.find({found.target.region for found in going}, owner)
        asked_about = {found.rule.id for found in going}
        finding = replace(finding, failed={**finding.failed, **seen.failed})
        going = [found for found in seen.rules if found.rule.id in asked_about and chosen(found)]
    outcomes = await aws.revoke(going)
    _show(replace(finding, rules=going), datetime.now(UTC), output, outcomes)
    left = sum(error is not None for error in outcomes.values())
    print(f"revoked {len(going) - left} of {_counted(going)}", file=sys.stderr)
    halves = sum(remnant(found.rule, datetime.now(UTC)) is Remnant.ONE_MARK for found in finding.rules)
    if owner is not None and halves:  # of which nothing is meant to stay
        print(f"left alone, with one of the two marks: {halves}; a listing names them", file=sys.stderr)
    if owner is not None and not finding.rules:
        print(f"no rule of {owner} found; without --owner those of every installation are listed", file=sys.stderr)
    return not finding.failed and not left


def _counted(rules: "Sequence[Found]") -> str:
    return "1 rule" if len(rules) == 1 else f"{len(rules)} rules"


def _chooser(wanted: str) -> "Callable[[Found], bool]":
    from datetime import UTC, datetime

    from gatepass.core.sweep import Remnant, remnant

    states = {Remnant.EXPIRED} if wanted == "expired" else {Remnant.EXPIRED, Remnant.OPEN, Remnant.STATIC}
    return lambda found: remnant(found.rule, datetime.now(UTC)) in states


def _own_region() -> "list[str]":
    from gatepass.providers.aws_sweep import default_region

    region = default_region()
    if region is None:
        _refuse("the credentials name no Region: say --region or --all-regions")
    return [region]


def _show(
    finding: "Finding",
    now: "datetime",
    output: str,
    outcomes: "Mapping[str, ProviderError | None] | None" = None,
    *,
    err: bool = False,
) -> None:
    """The rules, and on stderr what could not be looked at."""
    import json

    rows = [_row(found, now, outcomes) for found in finding.rules]
    if output == "json":
        failed = [{"region": region, "error": _told(error)} for region, error in finding.failed.items()]
        print(json.dumps({"rules": rows, "failed": failed}, indent=2))
    elif rows:
        _print_rows(rows, err=err)
    elif not err and outcomes is None:
        print("no rules of Gatepass found", file=sys.stderr)
    if not err:
        for region, error in finding.failed.items():
            print(f"gatepass sweep: {region}: {_told(error)}", file=sys.stderr)


def _row(found: "Found", now: "datetime", outcomes: "Mapping[str, ProviderError | None] | None") -> "dict[str, Any]":
    from gatepass.core.rules import parse_mark
    from gatepass.core.sweep import remnant
    from gatepass.core.types.common import format_time

    target, observed = found.target, found.rule
    mark = parse_mark(observed.description)
    row: dict[str, Any] = {
        "owner": observed.owner,
        "account": target.account,
        "region": target.region,
        "group": target.id,
        "id": observed.id,
        "rule": str(observed.rule) if observed.rule else None,
        "resource": mark.resource if mark else None,
        "until": format_time(mark.until) if mark and mark.until else None,
        "description": observed.description,
        "state": remnant(observed, now).value,
    }
    if outcomes is not None:
        error = outcomes[observed.id]
        row |= {"result": "revoked" if error is None else "failed", "error": error and _told(error)}
    return row


_COLUMNS = ("account", "region", "group", "id", "rule", "resource", "until", "state", "result", "error")


def _print_rows(rows: "Sequence[Mapping[str, Any]]", *, err: bool) -> None:
    """A table for each installation on a terminal, else lines with tabs and the installation last."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(stderr=err)
    shown = [name for name in _COLUMNS if name in rows[0]]
    if not console.is_terminal:
        print("\t".join(name.upper() for name in (*shown, "owner")), file=console.file)
        for row in rows:
            print("\t".join(_cell(row[name]) for name in (*shown, "owner")), file=console.file)
        return
    for owner in sorted({str(row["owner"]) for row in rows}):
        table = Table(title=Text(f"installation {_cell(owner)}"), title_justify="left")
        for name in shown:
            table.add_column(name, overflow="fold", no_wrap=name == "id")
        for row in rows:
            if row["owner"] == owner:
                style = {"expired": "red", "one mark": "yellow"}.get(row["state"])
                table.add_row(*(Text(_cell(row[name])) for name in shown), style=style)
        console.print(table)


def _cell(value: object) -> str:
    """What anybody may have written on a rule is shown as it is, and moves no cursor."""
    return "".join(each if each.isprintable() else "\ufffd" for each in str(value or "-"))


def _told(error: "ProviderError") -> str:
    if error.reason == "NoCredentials":
        return "there are no AWS credentials: set AWS_PROFILE, or sign in as for the AWS command line"
    return str(error)


def _refuse(message: str) -> NoReturn:
    print(f"gatepass sweep: {message}", file=sys.stderr)
    raise typer.Exit(2)


def _fail(message: str) -> NoReturn:
    print(f"gatepass sweep: {message}", file=sys.stderr)
    raise typer.Exit(1)
