"""The bounds of a ProtectedResource, as small pure checks; admission has asked them first, the operator decides."""

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from gatepass.core.rules import canonical_cidr
from gatepass.core.types.common import NEVER_ALLOWED, PRIVATE, WIDEST_PREFIX, format_duration
from gatepass.core.types.resource import From, ProtectedResource
from gatepass.core.types.session import AccessSession

WITHDRAWN: Final = "PolicyWithdrawn"
NOT_FOUND: Final = "ResourceNotFound"
NOT_SEEN: Final = "NamespaceNotSeen"
KEY_UNKNOWN: Final = "KeyUnknown"
UNANSWERED: Final = "NotAsked"
AUDIT_UNAVAILABLE: Final = "AuditUnavailable"
UNDECIDED: Final = (UNANSWERED, AUDIT_UNAVAILABLE)
"""Why something is not opened while nobody could be asked, or told: the next answer may be another."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a resource is not opened: a CamelCase reason, and a message that names the field, the value and the bound."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the checks need beside the two objects; labels that are None belong to a namespace not seen yet.

    `ranges` are what the session is let in from, where that is found and not as its spec and status say.
    """

    ranges: tuple[str, ...] | None = None
    session_namespace_labels: Mapping[str, str] | None = None
    resource_namespace_deleting: bool = False


_ADDRESSES: Final = 16384
"""How many addresses are remembered: a session asks about its own in each pass."""

Check = Callable[[AccessSession, ProtectedResource, Surroundings], Refusal | None]


def _networks(ranges: tuple[str, ...]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in ranges)


_NEVER = _networks(NEVER_ALLOWED)
_PRIVATE = _networks(PRIVATE)


def _touches(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
    ranges: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...],
) -> bool:
    return any(network.version == other.version and network.overlaps(other) for other in ranges)


_network: Final = lru_cache(maxsize=_ADDRESSES)(ipaddress.ip_network)


@lru_cache(maxsize=_ADDRESSES)
def _is_private(cidr: str) -> bool:
    return _touches(_network(cidr), _PRIVATE)


@lru_cache(maxsize=_ADDRESSES)
def cidr_refusal(text: str, where: str) -> Refusal | None:
    """What no policy can allow: junk, another spelling, a very wide range, an address that no runner has."""
    try:
        canonical = canonical_cidr(text)
    except ValueError:
        return Refusal("InvalidAddress", f"{where}: {text!r} is not a CIDR such as 203.0.113.7/32")
    network = ipaddress.ip_network(canonical)
    if canonical != text:
        return Refusal("InvalidAddress", f"{where}: {text} must be written {canonical}")
    if network.prefixlen < WIDEST_PREFIX[network.version]:
        bound = WIDEST_PREFIX[network.version]
        return Refusal("InvalidAddress", f"{where}: {text} is wider than the /{bound} that is the most for its family")
    if _touches(network, _NEVER):
        return Refusal(
            "InvalidAddress",
            f"{where}: {text} touches unspecified, loopback, link-local, multicast or reserved addresses",
        )
    return None


def is_public(cidr: str) -> bool:
    """Is it a range that may be let in, and none of a private network?"""
    return cidr_refusal(cidr, "") is None and not _is_private(cidr)


def _field(session: AccessSession) -> str:
    return f"spec.source.{session.spec.source.kind}"


def _ranges(session: AccessSession, around: Surroundings) -> tuple[str, ...]:
    return session.ranges if around.ranges is None else around.ranges


def _source_accepted(session: AccessSession, resource: ProtectedResource, _around: Surroundings) -> Refusal | None:
    accepted = resource.spec.policy.sources
    if session.spec.source.kind in accepted:
        return None
    return Refusal(
        "SourceNotAllowed",
        f"{_field(session)}: ProtectedResource {resource.key} accepts {', '.join(accepted)} (policy.sources)",
    )


def _well_formed(session: AccessSession, _resource: ProtectedResource, around: Surroundings) -> Refusal | None:
    return next(filter(None, (cidr_refusal(cidr, _field(session)) for cidr in _ranges(session, around))), None)


def _namespace_allowed(session: AccessSession, resource: ProtectedResource, around: Surroundings) -> Refusal | None:
    allowed = resource.spec.policy.allowed_namespaces
    here, there = session.metadata.namespace, resource.metadata.namespace
    match allowed.from_:
        case From.ALL:
            return None
        case From.SAME:
            ok = here == there
        case From.SELECTOR:
            labels = around.session_namespace_labels
            ok = labels is None or (allowed.selector is not None and allowed.selector.matches(labels))
    if ok:
        return None
    return Refusal(
        "NamespaceNotAllowed",
        f"sessions of namespace {here} may not use ProtectedResource {resource.key}: "
        f"its policy.allowedNamespaces is from: {allowed.from_}",
    )


def _namespace_seen(session: AccessSession, resource: ProtectedResource, around: Surroundings) -> Refusal | None:
    selects = resource.spec.policy.allowed_namespaces.from_ is From.SELECTOR
    if not selects or around.session_namespace_labels is not None:
        return None
    return Refusal(NOT_SEEN, f"the labels of namespace {session.metadata.namespace} are not known yet")


def _narrow_enough(session: AccessSession, resource: ProtectedResource, around: Surroundings) -> Refusal | None:
    bound = resource.spec.policy.min_prefix_length
    for cidr in _ranges(session, around):
        network = _network(cidr)
        shortest = bound.ipv4 if network.version == 4 else bound.ipv6
        if network.prefixlen < shortest:
            return Refusal(
                "AddressTooWide",
                f"{_field(session)}: {cidr} is wider than the /{shortest} that "
                f"ProtectedResource {resource.key} allows (policy.minPrefixLength.ipv{network.version})",
            )
    return None


def _public(session: AccessSession, resource: ProtectedResource, around: Surroundings) -> Refusal | None:
    if resource.spec.policy.allow_private_addresses:
        return None
    for cidr in _ranges(session, around):
        if _is_private(cidr):
            return Refusal(
                "PrivateAddress",
                f"{_field(session)}: {cidr} is a private address, which ProtectedResource {resource.key} "
                "does not allow (policy.allowPrivateAddresses is false)",
            )
    return None


def _namespace_stays(_session: AccessSession, resource: ProtectedResource, around: Surroundings) -> Refusal | None:
    if not around.resource_namespace_deleting:
        return None
    return Refusal("NamespaceDeleting", f"namespace {resource.metadata.namespace} is being deleted")


def _short_enough(session: AccessSession, resource: ProtectedResource, _around: Surroundings) -> Refusal | None:
    longest = resource.spec.policy.max_duration
    if session.spec.duration <= longest:
        return None
    return Refusal(
        "DurationTooLong",
        f"spec.duration: {format_duration(session.spec.duration)} is above the {format_duration(longest)} that "
        f"ProtectedResource {resource.key} allows (policy.maxDuration)",
    )


def _reason_given(session: AccessSession, resource: ProtectedResource, _around: Surroundings) -> Refusal | None:
    if not resource.spec.policy.require_reason or (session.spec.reason or "").strip():
        return None
    return Refusal(
        "ReasonRequired", f"spec.reason: ProtectedResource {resource.key} requires one (policy.requireReason)"
    )


def _resource_stays(_session: AccessSession, resource: ProtectedResource, _around: Surroundings) -> Refusal | None:
    if not resource.deleting:
        return None
    return Refusal("ResourceDeleting", f"ProtectedResource {resource.key} is being deleted")


# Those that bind as long as the session lives, and those that bind new sessions only.
LASTING: Final[tuple[Check, ...]] = (
    _well_formed,
    _source_accepted,
    _namespace_allowed,
    _narrow_enough,
    _public,
    _namespace_stays,
)
AT_FIRST: Final[tuple[Check, ...]] = (_namespace_seen, _short_enough, _reason_given, _resource_stays)


def refusal(session: AccessSession, resource: ProtectedResource, around: Surroundings) -> Refusal | None:
    """Why a session that has been granted nothing yet may not open the resource."""
    return _first(LASTING + AT_FIRST, session, resource, around)


def withdrawal(session: AccessSession, resource: ProtectedResource, around: Surroundings) -> Refusal | None:
    """Why a session loses what it was granted: a bound was tightened since."""
    lost = _first(LASTING, session, resource, around)
    return lost and Refusal(WITHDRAWN, lost.message)


def _first(
    checks: tuple[Check, ...], session: AccessSession, resource: ProtectedResource, around: Surroundings
) -> Refusal | None:
    return next(filter(None, (check(session, resource, around) for check in checks)), None)
