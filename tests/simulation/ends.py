"""Laws about ends: each has the cause and the phase that its status gives. And about beginnings: how many, and once."""

from collections.abc import Collection, Iterator
from typing import Final

from tests.simulation.ledger import Holder, Json, Ledger, Name, entry_of

_BY_TIME: Final = ("Expired", "NotAfter")
_AT_FIRST: Final = ("DurationTooLong", "ReasonRequired", "ResourceDeleting", "NotAuthorized", "RequesterUnverified")
_SECOND: Final = 1.0
"""As exact as the times in a status are."""


def without_cause(session: Json, ledgers: Collection[Ledger], counted: Collection[Holder], now: float) -> bool:
    """Has the session ended for no reason, or for another one than it says?

    `counted` are its resources that it could count on the moment before. Who has lost its runner is told elsewhere.
    """
    match session["status"]["endedReason"]:
        case "Expired" | "NotAfter":
            return not any(ledger.time_came(session, now + _SECOND) for ledger in ledgers)
        case "Manual":
            return not session["spec"].get("stop")
        case "Deleted":
            return "deletionTimestamp" not in session["metadata"]
        case "PolicyWithdrawn":
            return bool(counted)
        case "OwnerFinished" | "HeartbeatLost":
            return False
    return True


def last_phase(session: Json) -> str:
    """The phase in which it has to come to rest."""
    return "Expired" if session["status"]["endedReason"] in _BY_TIME else "Cancelled"


def newly_opened(before: Json, after: Json) -> Iterator[Name]:
    """The resources that a session is told of for the first time that they are open."""
    for entry in after["status"].get("resources", ()):
        name = (entry["namespace"], entry["name"])
        known = entry_of(before, name)
        if entry["state"] == "Applied" and not (known and known.get("rules")):
            yield name


def refused_anew(entry: Json) -> bool:
    """Is a resource refused for something that binds new sessions only?"""
    return entry["state"] == "Failed" and entry.get("reason") in _AT_FIRST


def open_at(sessions: Collection[Json], name: Name) -> Iterator[Holder]:
    """Who has been told that the resource is open."""
    for session in sessions:
        entry = entry_of(session, name)
        if entry is not None and entry["state"] == "Applied":
            yield Holder(session["metadata"]["uid"], entry.get("uid", ""))


def ceiling_of(resource: Json | None) -> int | None:
    """How many sessions may be open at once."""
    found: int | None = None if resource is None else resource["spec"].get("policy", {}).get("maxConcurrentSessions")
    return found
