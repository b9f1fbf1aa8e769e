"""What the laws are told by: where a rule is, and that one of them was broken."""

import sys
import traceback
from dataclasses import dataclass

from gatepass.core.rules import ObservedRule, Target
from tests.observer.promise import Door
from tests.simulation.ledger import Place


class BreachError(Exception):
    """A law was broken: `law` says which, the text how."""

    def __init__(self, law: str, how: str) -> None:
        super().__init__(f"{law}: {how}")
        self.law = law


def where(cause: object) -> str:
    """The innermost lines of the traceback of an error; of the one that is handled now, for True."""
    error = sys.exc_info()[1] if cause is True else cause
    if not isinstance(error, BaseException):
        return ""
    return "".join(traceback.format_exception(error)[-3:])


def place_of(target: Target, rule: ObservedRule) -> Place | None:
    """Where a rule is."""
    if rule.rule is None or rule.rule.port is None or rule.rule.end_port is None:
        return None
    return Place(target.id, Door(rule.rule.cidr, rule.rule.protocol, rule.rule.port, rule.rule.end_port))


@dataclass
class RuleSeen:
    """A rule that is there; `heard` in which process's life its id was acknowledged."""

    place: Place
    ours: bool
    born: float
    heard: bool = False
    spoilt: bool = False
