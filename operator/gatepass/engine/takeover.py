"""Which of thousands of sessions a new leader has to look at first."""

from datetime import datetime
from typing import Final

from gatepass.core.types.session import AccessSession, Phase
from gatepass.engine.grants import Grants, holds

_FIRST_LOOK_SECONDS: Final = 10.0
"""How long after the start a session that is open as its status says is looked at, if nothing has come of it before."""


def is_as_told(session: AccessSession, now: datetime) -> bool:
    """By its own word: open, of a length that has not passed, and nothing else can end it while nobody looks."""
    status, spec = session.status, session.spec
    told = status.phase is Phase.ACTIVE and status.observed_generation == session.metadata.generation
    alone = spec.bound_to is None and spec.heartbeat is None and spec.source.kind.declared
    return told and alone and not session.deleting and status.expires_at is not None and status.expires_at > now


def has_only_ended(session: AccessSession, grants: Grants, now: datetime) -> bool:
    """Is that to be written down, and nothing to be closed by its own word? It can wait until others are closed."""
    return not any(holds(entry) for entry in session.status.resources) and grants.end(session, now) is not None


def patience(session: AccessSession, grants: Grants, now: datetime) -> float:
    """Seconds at the start in which the pass over its group will say whether the session has to be looked at."""
    expires_at = session.status.expires_at
    if not is_as_told(session, now) or expires_at is None or grants.end(session, now) is not None:
        return 0.0
    if any(grants.refusal(session, key, now) is not None for key in session.resource_keys()):
        return 0.0
    return min((expires_at - now).total_seconds(), _FIRST_LOOK_SECONDS)
