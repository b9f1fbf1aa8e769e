"""What each firewall object should hold: the union over everybody who is still granted something there."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from gatepass.core.plan import Wanted
from gatepass.core.rules import Rule, clean_note, rules_for
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession


class ClaimKey(NamedTuple):
    """Whose wish it is, by uid: a session's for one resource, or a resource's own for a static range."""

    holder: str
    resource: str


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody's wish for all of these rules in the firewalls of one resource; `until` is None for a static range.

    `granted` says that it had them before; one whose session is `ending` keeps what it has, and gets nothing more.
    `arrival` tells the order of those of the same second.
    """

    key: ClaimKey
    resource: str
    rules: frozenset[Rule]
    until: datetime | None
    since: datetime
    arrival: int = 0
    granted: bool = False
    ending: bool = False
    note: str = ""

    @property
    def order(self) -> tuple[bool, bool, datetime, int, ClaimKey]:
        """Static ranges come first, then what was granted before, then the oldest."""
        return self.until is not None, not self.granted, self.since, self.arrival, self.key


def session_claim(
    session: AccessSession,
    resource: ProtectedResource,
    ranges: Iterable[str],
    until: datetime,
    *,
    arrival: int,
    granted: bool,
    ending: bool = False,
) -> Claim:
    """What a live session wants of one resource, or one whose end has not been written down yet."""
    return Claim(
        key=ClaimKey(session.uid, resource.uid),
        resource=str(resource.key),
        rules=rules_for(resource.spec.ports, ranges),
        until=until,
        since=session.metadata.creation_timestamp,
        arrival=arrival,
        granted=granted,
        ending=ending,
    )


def static_claims(resource: ProtectedResource) -> list[Claim]:
    """What a resource wants for its static ranges, for as long as it exists."""
    if resource.deleting:
        return []
    return [
        Claim(
            key=ClaimKey(f"static:{static.cidr}", resource.uid),
            resource=str(resource.key),
            rules=rules_for(resource.spec.ports, [static.cidr]),
            until=None,
            since=resource.metadata.creation_timestamp,
            note=clean_note(static.description),
        )
        for static in resource.spec.static_cidrs
    ]


def wanted(rule: Rule, claims: Iterable[Claim]) -> Wanted:
    """One rule for all of its users: static as long as one of them is, else until the last of their deadlines."""
    users = list(claims)
    first = min(users, key=lambda claim: claim.order)
    deadlines = [claim.until for claim in users if claim.until is not None]
    until = max(deadlines) if len(deadlines) == len(users) else None
    return Wanted(rule, first.resource, until, first.note)
