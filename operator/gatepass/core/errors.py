"""How a call to the outside can fail, in the engine's terms."""

from dataclasses import dataclass
from enum import StrEnum


class Failure(StrEnum):
    """What may be done about it."""

    RETRY = "retry"  # throttled, timed out, 5xx: the same call may work in a moment
    FORBIDDEN = "forbidden"  # credentials refused or not enough: a person has to act
    NOT_FOUND = "not-found"  # the firewall object is not there
    TERMINAL = "terminal"  # the request itself is wrong


@dataclass(unsafe_hash=True)  # not frozen: a context manager that it passes sets its traceback
class ProviderError(Exception):
    """A refused or failed call, told so that a person can act; it never carries a secret.

    `reason` is a CamelCase word for conditions, such as the cloud's own error code.
    """

    failure: Failure
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class UnknownOutcomeError(Exception):
    """The request may or may not have taken effect: its answer was lost."""
