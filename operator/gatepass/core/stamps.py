"""Who is behind a session, as the API server itself has written it at admission."""

import json
from functools import lru_cache

from pydantic import ValidationError

from gatepass.core.types.common import CHANGED_BY, REQUESTED_BY
from gatepass.core.types.session import AccessSession, Requester


def requester_of(session: AccessSession) -> Requester | None:
    """Who created the session; None when there is no stamp that can be read."""
    return _stamped(session, REQUESTED_BY)


def changer_of(session: AccessSession) -> Requester | None:
    """Who stopped it, or changed its end before that; None when nobody has, or there is no stamp that can be read."""
    return _stamped(session, CHANGED_BY)


def _stamped(session: AccessSession, annotation: str) -> Requester | None:
    return _read(session.metadata.annotations.get(annotation, ""))


@lru_cache(maxsize=4096)
def _read(stamp: str) -> Requester | None:
    try:
        return Requester.model_validate(json.loads(stamp))
    except (ValueError, ValidationError):
        return None
