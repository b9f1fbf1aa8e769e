"""What is true when everything is over: the phases, the rules left, how late they were closed. Pure."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from tests.observer.judge import LATENESS_SECONDS, Judge
from tests.observer.promise import name_of, own_end

_BY_TIME = {"Expired", "NotAfter", "Unclaimed"}
_BY_RUNNER = {"OwnerFinished", "HeartbeatLost"}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so many of all do not exceed; 0 for none."""
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]


def wrong_phases(judge: Judge, now: float) -> Iterator[str]:
    """The sessions whose time is over, and whose phase and reason are not what their spec and the clock say."""
    for uid, session in judge.book.sessions.items():
        status, until = session.get("status", {}), own_end(session).timestamp()
        phase, reason = status.get("phase"), status.get("endedReason")
        stopped = judge.stopped_at.get(uid)
        told = f"{name_of(session)} is {phase} ({reason})"
        lost = judge.book.lost.get(uid, math.inf)
        if stopped is None and min(until, lost) > now - LATENESS_SECONDS:
            continue
        if "deletionTimestamp" in session["metadata"]:
            yield f"{told} and still there, though it was deleted"
        elif (phase, reason in _BY_TIME) not in {("Expired", True), ("Cancelled", False)}:
            yield f"{told}, though its time was over"
        elif (
            stopped is not None
            and stopped < until - 1.0
            and reason not in {"Manual", *(_BY_RUNNER if uid in judge.book.lost else ())}
        ):
            yield f"{told}, though it was stopped"
        elif stopped is None and reason == "Manual":
            yield f"{told}, though nobody stopped it"


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
