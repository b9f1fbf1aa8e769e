"""Whether a rule with our tag may go, told from the rule alone, when there is no cluster to ask."""

import re
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from gatepass.core.rules import OWNER, ObservedRule, parse_mark

MARGIN: Final = timedelta(minutes=15)
"""How long past its `until` a rule is left to whoever made it: an operator at work has closed it, or moved `until`
later, by then. Covers clocks that differ, reads that lag, and a resync of ten minutes."""


class Remnant(StrEnum):
    """What a rule with our tag says of itself."""

    EXPIRED = "expired"
    OPEN = "open"
    STATIC = "static"
    ONE_MARK = "one mark"


def remnant(observed: ObservedRule, now: datetime) -> Remnant:
    """By the whole grammar of both marks; a rule with anything less in one of them is not ours to touch."""
    mark = parse_mark(observed.description)
    if mark is None or observed.owner is None or re.fullmatch(OWNER, observed.owner) is None:
        return Remnant.ONE_MARK
    if mark.until is None:
        return Remnant.STATIC
    return Remnant.EXPIRED if mark.until + MARGIN < now else Remnant.OPEN
