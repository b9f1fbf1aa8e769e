"""Who is behind a session or a binding, as the API server itself has written it at admission."""

import hashlib
import json
from datetime import datetime
from functools import lru_cache

from pydantic import ValidationError

from gatepass.core.types.binding import ApiKeyBinding, Vouched
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


def vouched(binding: ApiKeyBinding, policies_since: datetime) -> Vouched | None:
    """What to keep of policies that vouch for the binding's stamps; None when nobody does.

    They vouch for what was made, or changed, since they are in force; and for what is as it was while others were.
    """
    kept = binding.status.vouched
    now = Vouched(policies_since=policies_since, digest=_digest(binding))
    made_since = binding.metadata.creation_timestamp > policies_since
    if made_since or (kept is not None and (kept.policies_since == policies_since or kept.digest == now.digest)):
        return now
    return None


def unchanged(binding: ApiKeyBinding) -> bool:
    """Is the binding as it was when policies vouched for it last?"""
    kept = binding.status.vouched
    return kept is not None and kept.digest == _digest(binding)


def _digest(binding: ApiKeyBinding) -> str:
    """Of who is behind the binding, and of all that they answer for; no newer version adds its defaults to it."""
    annotations = binding.metadata.annotations
    stamps = [annotations.get(REQUESTED_BY), annotations.get(CHANGED_BY)]
    spec = binding.spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return hashlib.sha256(json.dumps([stamps, spec], sort_keys=True).encode()).hexdigest()


def _stamped(about: Custom, annotation: str) -> Requester | None:
    return _read(about.metadata.annotations.get(annotation, ""))


@lru_cache(maxsize=4096)
def _read(stamp: str) -> Requester | None:
    try:
        return Requester.model_validate(json.loads(stamp))
    except (ValueError, ValidationError, RecursionError):
        return None
