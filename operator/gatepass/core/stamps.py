"""Who is behind a session or a binding, as the API server itself has written it at admission."""

import json
from functools import lru_cache

from pydantic import ValidationError

from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import CHANGED_BY, REQUESTED_BY, Custom
from gatepass.core.types.session import Requester


def requester_of(asked: Custom) -> Requester | None:
    """Who created it; None when there is no stamp that can be read."""
    return _stamped(asked, REQUESTED_BY)


def changer_of(changed: Custom) -> Requester | None:
    """Who stopped a session or changed its end before that, or changed a binding last.

    None when nobody has, or there is no stamp that can be read.
    """
    return _stamped(changed, CHANGED_BY)


def binder_of(binding: ApiKeyBinding) -> Requester | None:
    """Who answers for what the key may do: who changed it last, else who created it; None as above."""
    return _stamped(binding, CHANGED_BY if CHANGED_BY in binding.metadata.annotations else REQUESTED_BY)


def _stamped(about: Custom, annotation: str) -> Requester | None:
    return _read(about.metadata.annotations.get(annotation, ""))


@lru_cache(maxsize=4096)
def _read(stamp: str) -> Requester | None:
    try:
        return Requester.model_validate(json.loads(stamp))
    except (ValueError, ValidationError, RecursionError):
        return None
