"""What is true when everything is over: the phases, the rules left, how late they were closed. Pure."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from tests.observer.book import Item
from tests.observer.judge import LATENESS_SECONDS, Judge
from tests.observer.promise import duration, moment, name_of

_BY_DEADLINE = {"Expired", "NotAfter"}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so many of all do not exceed; 0 for none."""
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]


def wrong_phases(judge: Judge, now: float) -> Iterator[str]:
    """The sessions whose time is over, and whose phase and reason are not what their spec and the clock say."""
    for uid, session in judge.book.sessions.items():
        status, until = session.get("status", {}), _until(session)
        phase, reason = status.get("phase"), status.get("endedReason")
        stopped = judge.stopped_at.get(uid)
        told = f"{name_of(session)} is {phase} ({reason})"
        if stopped is None and until > now - LATENESS_SECONDS:
            continue
        if "deletionTimestamp" in session["metadata"]:
            yield f"{told} and still there, though it was deleted"
        elif (phase, reason in _BY_DEADLINE) not in {("Expired", True), ("Cancelled", False)}:
            yield f"{told}, though its time was over"
        elif stopped is not None and stopped < until - 1.0 and reason != "Manual":
            yield f"{told}, though it was stopped"
        elif stopped is None and reason == "Manual":
            yield f"{told}, though nobody stopped it"


def _until(session: Item) -> float:
    """The end that its own spec gives it."""
    spec = session["spec"]
    start = moment(session.get("status", {}).get("startedAt") or session["metadata"]["creationTimestamp"])
    end = start + duration(spec.get("duration", "1h"))
    return min(end, moment(spec["notAfter"])).timestamp() if "notAfter" in spec else end.timestamp()


def summary(judge: Judge, now: float) -> dict[str, Any]:
    """The report's figures; times in seconds."""
    by_clock = [each.by_clock for each in judge.lateness]
    counted = [each.counted for each in judge.lateness]
    return {
        "breaches": len(judge.breaches),
        "foreign_rules_touched": sum(kind == "touched a foreign rule" for kind, _ in judge.breaches),
        "rules_left": [f"{rule.id} in {rule.group}: {rule.door}" for rule in judge.left(now)],
        "live": [f"{holder.resource} is wanted by {claim.holder}" for holder, claim in judge.book.live(now)],
        "wrong_phases": list(wrong_phases(judge, now)),
        "closed": len(counted),
        "lateness": {name: percentile(counted, share) for name, share in _SHARES.items()},
        "lateness_by_clock": {name: percentile(by_clock, share) for name, share in _SHARES.items()},
    }


_SHARES = {"p50": 0.5, "p99": 0.99, "max": 1.0}
