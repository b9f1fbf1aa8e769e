"""What others wrote down of a run: the API server's audit log, and the call log of the EC2 emulator."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from bench.load import Opening
from bench.scene import address, session_name

READS = ("Describe", "Get")
WRITES = {"create", "update", "patch", "delete", "deletecollection"}
THROTTLED = "RequestLimitExceeded"
AUTHORIZE = "AuthorizeSecurityGroupIngress"


class AuditLog:
    """The audit log from one moment on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = path.stat().st_size

    def writes_by(self, account: str) -> list[dict[str, Any]]:
        """What the account has written since, but for renewals of the lease, and questions to the authorizer."""
        with self._path.open("rb") as log:
            log.seek(self._start)
            entries = [json.loads(line) for line in log if line.endswith(b"\n")]
        return [
            entry
            for entry in entries
            if entry["user"].get("username") == account
            and entry["verb"] in WRITES
            and entry["objectRef"].get("apiGroup") not in ("authorization.k8s.io", "coordination.k8s.io")
        ]


def open_watches(audit_log: Path, account: str) -> dict[str, int]:
    """The watches of the account that have begun and not ended, counted by what they follow."""
    found: dict[str, str] = {}
    for line in audit_log.read_text().splitlines():
        if '"verb":"watch"' not in line:
            continue
        entry = json.loads(line)
        if entry["user"].get("username") != account:
            continue
        if entry["stage"] == "ResponseStarted":
            found[entry["auditID"]] = entry["objectRef"]["resource"]
        else:
            found.pop(entry["auditID"], None)
    return dict(Counter(found.values()))


def by_kind(writes: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Writes counted by verb and kind."""
    counts = Counter(
        "/".join(filter(None, (entry["objectRef"]["resource"], entry["objectRef"].get("subresource"))))
        for entry in writes
    )
    return dict(counts.most_common())


def most_until_ready(openings: Sequence[Opening], writes: Iterable[Mapping[str, Any]]) -> int:
    """The most writes that any one session has got until it was seen Ready."""
    until = {session_name(each.number): each.ready_at for each in openings}
    counts = Counter(
        entry["objectRef"]["name"]
        for entry in writes
        if entry["objectRef"]["resource"] == "accesssessions"
        and entry["objectRef"]["name"] in until
        and datetime.fromisoformat(entry["requestReceivedTimestamp"]) <= until[entry["objectRef"]["name"]]
    )
    return max(counts.values(), default=0)


def by_action(calls: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """EC2 calls counted by name."""
    return dict(Counter(call["action"] for call in calls if call["service"] == "ec2").most_common())


def mutating(calls: Iterable[Mapping[str, Any]]) -> int:
    """EC2 calls that change something."""
    return sum(count for action, count in by_action(calls).items() if not action.startswith(READS))


def throttled(calls: Iterable[Mapping[str, Any]]) -> int:
    """Calls that AWS would have refused as too many."""
    return sum(call.get("code") == THROTTLED for call in calls)


def throttled_percent(calls: Sequence[Mapping[str, Any]]) -> float:
    """Of the calls that change something, how many of a hundred AWS would have refused as too many."""
    changing = [call for call in calls if call["service"] == "ec2" and not call["action"].startswith(READS)]
    return round(100 * throttled(changing) / max(len(changing), 1), 2)


def seconds_to_rule(openings: Sequence[Opening], calls: Iterable[Mapping[str, Any]]) -> list[float]:
    """For each session, the seconds from its create until EC2 had its rule, by the emulator's own log."""
    had: dict[str, datetime] = {}
    for call in calls:
        if call["action"] == AUTHORIZE and call.get("effect") == "ok":
            done = datetime.fromisoformat(call["time"]) + timedelta(milliseconds=call["ms"])
            for rule in call["rules"]:
                had.setdefault(rule["source"], done)
    return [(had[address(each.number)] - each.at).total_seconds() for each in openings]


def groups_read(calls: Iterable[Mapping[str, Any]]) -> set[str]:
    """The security groups whose rules were read, by the filters of the calls that EC2 answered."""
    return {
        group
        for call in calls
        if call["action"] == "DescribeSecurityGroupRules" and call.get("effect") == "ok"
        for given in call["params"].get("Filter", ())
        if given["Name"] == "group-id"
        for group in given["Value"]
    }
