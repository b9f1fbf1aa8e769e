"""A missed bar is seen by machines too, and the audit log says which watches are open."""

import json
from io import StringIO
from pathlib import Path

import pytest
from bench.figures import Figure, conclude
from bench.records import open_watches
from rich.console import Console

ACCOUNT = "system:serviceaccount:gatepass-system:gatepass"


@pytest.mark.parametrize(
    ("figure", "code"),
    [
        (Figure("told", 9.0, "s"), 0),
        (Figure("kept", 2.0, "s", bar=2.0), 0),
        (Figure("missed", 2.1, "s", bar=2.0), 1),
        (Figure("kept as a ratio", 30.0, "ms", floor=20.0, ratio=1.5, bar=1.5), 0),
        (Figure("missed as a ratio", 1.0, "ms", floor=0.5, ratio=2.0, bar=1.5), 1),
    ],
)
def test_a_missed_bar_is_an_exit_code(figure: Figure, code: int) -> None:
    told = StringIO()
    assert (
        conclude("figures", [Figure("steady", 0, "", bar=0), figure], ["left open: [sgr-1]"], Console(file=told))
        == code
    )
    assert ("MISS" in told.getvalue()) == bool(code)
    assert "left open: [sgr-1]" in told.getvalue()


def test_open_watches_are_those_of_the_account_that_have_not_ended(tmp_path: Path) -> None:
    def entry(id_: str, resource: str, stage: str, user: str = ACCOUNT, verb: str = "watch") -> str:
        told = {"verb": verb, "auditID": id_, "stage": stage, "user": {"username": user}}
        return json.dumps({**told, "objectRef": {"resource": resource}}, separators=(",", ":"))

    log = tmp_path / "audit.log"
    lines = [
        entry("1", "jobs", "ResponseStarted"),
        entry("2", "jobs", "ResponseStarted"),
        entry("1", "jobs", "ResponseComplete"),
        entry("3", "pods", "ResponseStarted"),
        entry("4", "pods", "ResponseStarted", user="somebody"),
        entry("5", "secrets", "ResponseComplete", verb="list"),
    ]
    log.write_text("\n".join(lines) + "\n")
    assert open_watches(log, ACCOUNT) == {"jobs": 1, "pods": 1}
