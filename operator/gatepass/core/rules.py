"""Rules of a firewall: their canonical identity, and the marks that say whose they are."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final, NamedTuple

from gatepass.core.types.common import format_time, parse_time
from gatepass.core.types.resource import PortRange, Protocol


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """One firewall object, the unit of cloud work: for AWS a security group of an account and Region."""

    provider: str
    account: str
    region: str
    id: str

    def __str__(self) -> str:
        return f"{self.provider}/{self.account}/{self.region}/{self.id}"


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """The identity of an inbound rule: protocol, ports and source; its description is no part of it.

    `protocol` is tcp, udp, icmp, icmpv6 or all; the ports are None for the last three.
    """

    cidr: str
    protocol: str
    port: int | None = None
    end_port: int | None = None

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.cidr else 4

    @property
    def weight(self) -> tuple[int, int]:
        """How many rules it counts for, IPv4 and IPv6."""
        return (1, 0) if self.family == 4 else (0, 1)

    def __str__(self) -> str:
        if self.port is None:
            return f"{self.cidr} {self.protocol}"
        ports = self.port if self.end_port == self.port else f"{self.port}-{self.end_port}"
        return f"{self.cidr} {self.protocol} {ports}"


@lru_cache(maxsize=65536)
def canonical_cidr(text: str) -> str:
    """The one spelling of a range: host bits cleared, IPv6 as in RFC 5952; raises ValueError for anything else."""
    return str(ipaddress.ip_network(text, strict=False))


def rules_for(ports: Iterable[PortRange], cidrs: Iterable[str]) -> frozenset[Rule]:
    """Every combination of a port and an address."""
    ranges = tuple(ports)
    return frozenset(_rule(port, canonical_cidr(cidr)) for cidr in cidrs for port in ranges)


def _rule(port: PortRange, cidr: str) -> Rule:
    match port.protocol:
        case Protocol.ALL:
            return Rule(cidr, "all")
        case Protocol.ICMP:
            return Rule(cidr, "icmpv6" if ":" in cidr else "icmp")
        case Protocol.TCP | Protocol.UDP:
            return Rule(cidr, port.protocol.lower(), port.port, port.end_port or port.port)


@dataclass(frozen=True, slots=True)
class Mark:
    """What our description on a rule says: for which resource, and until when; `until` is None on a static rule."""

    resource: str
    until: datetime | None
    note: str = ""

    @property
    def static(self) -> bool:
        """True for a rule that no session made."""
        return self.until is None

    def __str__(self) -> str:
        head = "gatepass static" if self.until is None else f"gatepass until={format_time(self.until)}"
        return f"{head} for={self.resource} {self.note}".strip()[:_LONGEST].rstrip()


OWNER: Final = r"^[A-Za-z0-9._/-]{1,200}$"
"""What an install id may be, and so the value of the owner's tag; none of it is a wildcard in a filter."""

# EC2 takes 255 of these characters; the narrowest set that we know of is the safe one for every firewall.
_LONGEST: Final = 255
_FOREIGN_TO_DESCRIPTIONS = re.compile(r"[^a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]")
_NAME = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_MARK = re.compile(
    rf"gatepass (?:static|until=(?P<until>(?:19|20|21)\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ))"
    rf" for=(?P<resource>{_NAME}/{_NAME})(?: (?P<note>.*))?"
)


def clean_note(text: str) -> str:
    """User text as it may stand in a description: other characters become dots, white space is folded."""
    return _FOREIGN_TO_DESCRIPTIONS.sub(".", " ".join(text.split()))


@lru_cache(maxsize=65536)
def parse_mark(description: str) -> Mark | None:
    """Read our description back, by its whole grammar; None when it is not ours."""
    match = _MARK.fullmatch(description)
    if match is None:
        return None
    try:
        until = match["until"] and parse_time(match["until"])
    except ValueError:
        return None
    return Mark(match["resource"], until or None, match["note"] or "")


class Stamp(NamedTuple):
    """The tags of a rule of ours: whose it is, by install id, and who made it (`core.leadership`)."""

    owner: str
    maker: str


@dataclass(frozen=True, slots=True)
class ObservedRule:
    """A rule as the firewall shows it. `rule` is None for a kind that we never make, such as a prefix list.

    `owner` and `maker` are its tags (`Stamp`).
    `weight` is what it takes of the quota, (IPv4, IPv6): a reference to a group or a prefix list counts in both.
    """

    id: str
    rule: Rule | None
    description: str = ""
    owner: str | None = None
    weight: tuple[int, int] = (0, 0)
    maker: str | None = None
