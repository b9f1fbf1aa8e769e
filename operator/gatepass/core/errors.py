"""How a call to the outside can fail, in the engine's terms."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from gatepass.core.types.common import format_time
from gatepass.core.types.session import ClaimStatus, SourceAddress

SECRET_DELETED: Final = "SecretDeleted"  # noqa: S105  the name of a reason
"""The reason of a ProviderError for credentials in a Secret that is kept only to close what is open."""
TARGET_NOT_FOUND: Final = "TargetNotFound"
"""The reason for a firewall object that is not there."""


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


@dataclass(unsafe_hash=True)
class SourceError(Exception):
    """Where a session's traffic leaves from is not known, told so that a person can act; it never carries a secret.

    `reason` is a CamelCase word for conditions. With `retry` the same look may work in a moment, and is tried again
    with backoff; with `awaited` an event will tell, and nothing is tried before it. With neither it is refused: looked
    at again at the next resync only, and the session fails at once, so that no pipeline waits for it.
    """

    reason: str
    message: str
    retry: bool = False
    awaited: bool = False

    @property
    def refused(self) -> bool:
        """Is there nothing to wait for?"""
        return not (self.retry or self.awaited)

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


@dataclass(unsafe_hash=True)
class PartlyFoundError(SourceError):
    """Nobody can tell now of the IP families that none of `addresses` is of: what is on record of those stands.

    With `heard` somebody has answered over such a family, so that there is traffic of it.
    """

    addresses: tuple[SourceAddress, ...] = ()
    heard: bool = False


UNCLAIMED = "Unclaimed"
"""The reason of a session that nobody has claimed yet."""


class ClaimAwaitedError(SourceError):
    """The session can be claimed, and nobody has yet."""

    def __init__(self, claim: ClaimStatus) -> None:
        told = f"POST the token of Secret {claim.secret_name} to {claim.url} before {format_time(claim.expires_at)}"
        super().__init__(UNCLAIMED, told, awaited=True)
        self.claim = claim


class UnknownOutcomeError(Exception):
    """The request may or may not have taken effect: its answer was lost."""
