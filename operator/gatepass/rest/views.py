"""Custom resources in the words of the contract."""

import re
from collections.abc import Iterator
from typing import Final, Literal

from gatepass.core.lifecycle import deadline
from gatepass.core.types.binding import KEY_USER, ApiKeyBinding
from gatepass.core.types.common import Key
from gatepass.core.types.resource import PortRange, ProtectedResource
from gatepass.core.types.session import AccessSession, Requester, ResourceState, SessionResourceStatus
from gatepass.engine.store import Store
from gatepass.rest.models import ApiKey, Resource, ResourceIp, Session
from gatepass.rest.titles import title

State = Literal["PENDING", "APPLIED", "FAILED", "REMOVING", "REMOVED"]
_STATES: Final[dict[ResourceState, State]] = {
    ResourceState.PENDING: "PENDING",
    ResourceState.WAITING: "PENDING",
    ResourceState.APPLIED: "APPLIED",
    ResourceState.FAILED: "FAILED",
    ResourceState.REMOVING: "REMOVING",
    ResourceState.REMOVED: "REMOVED",
}


def session(found: AccessSession, requester: Requester | None, store: Store) -> Session:
    """A session as the contract shows it."""
    status = found.status
    ranges = found.spec.source.ranges
    told = status.expires_at if status.observed_generation == found.metadata.generation else None
    username = requester.username if requester is not None else ""
    return Session(
        id=found.uid,
        user_id=requester.uid if requester is not None else None,
        user_name=_short(username),
        user_email=username,
        ipv4_address=next((_bare(cidr) for cidr in ranges if ":" not in cidr), None),
        ipv6_address=next((_bare(cidr) for cidr in ranges if ":" in cidr), None),
        status=(status.phase or "Pending").upper(),
        started_at=found.started_at,
        expires_at=told or deadline(found)[0],
        ended_at=status.ended_at,
        ended_reason=_shouted(status.ended_reason) if status.ended_reason is not None else None,
        created_at=found.metadata.creation_timestamp,
        resource_ips=tuple(_ips(found, store)),
    )


def _ips(found: AccessSession, store: Store) -> Iterator[ResourceIp]:
    """A line for each address at each resource; the ports of one address are told by the first of their rules."""
    for key in found.resource_keys():
        entry = found.resource_status(key)
        known = store.resources.get(key)
        resource_id = (entry.uid if entry is not None else None) or (known.uid if known is not None else None)
        for cidr in found.spec.source.ranges:
            yield _ip(found, key, entry, resource_id, cidr)


def _ip(
    found: AccessSession, key: Key, entry: SessionResourceStatus | None, resource_id: str | None, cidr: str
) -> ResourceIp:
    rules = [rule for rule in (entry.rules if entry is not None else ()) if rule.cidr == cidr]
    first = rules[0] if rules else None
    return ResourceIp(
        id=f"{found.uid}/{key}/{cidr}",
        resource_id=resource_id,
        resource_name=key.name,
        ip_version=6 if ":" in cidr else 4,
        ip_address=_bare(cidr),
        status=_STATES[entry.state] if entry is not None else "PENDING",
        provider_rule_id=first.id if first is not None else None,
        applied_at=first.applied_at if first is not None else None,
        removed_at=first.removed_at if first is not None else None,
        error_message=entry.message if entry is not None else None,
    )


def _bare(cidr: str) -> str:
    """An address alone without its prefix length; a range as it is."""
    address, _, length = cidr.partition("/")
    return address if length == ("128" if ":" in cidr else "32") else cidr


def _short(username: str) -> str:
    return username.removeprefix(KEY_USER).rpartition(":")[2]


def _shouted(word: str) -> str:
    """NotAfter as NOT_AFTER."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word).upper()


def resource(found: ProtectedResource) -> Resource:
    """A resource as the contract shows it."""
    firewall = found.spec.aws
    ready = next((condition for condition in found.status.conditions if condition.type == "Ready"), None)
    ports = [_ports(each) for each in found.spec.ports if each.port is not None]
    return Resource(
        id=found.uid,
        name=title(found),
        provider="AWS",
        namespace=found.metadata.namespace,
        ready=ready is not None and ready.status == "True",
        message=ready.message or None if ready is not None else "not verified yet",
        config={
            "securityGroupId": firewall.security_groups[0],
            "securityGroupIds": list(firewall.security_groups),
            "region": firewall.region,
            "ports": ports,
            "protocol": found.spec.ports[0].protocol.value,
        },
        active_sessions=found.status.active_sessions or 0,
        created_at=found.metadata.creation_timestamp,
    )


def _ports(spec: PortRange) -> int | str | None:
    return spec.port if spec.end_port is None else f"{spec.port}-{spec.end_port}"


def api_key(found: ApiKeyBinding, store: Store) -> ApiKey:
    """A key as the contract shows it, without the key."""
    named = found.resource_keys()
    resources = (store.resources.get(key) for key in named or ())
    return ApiKey(
        id=found.uid,
        name=title(found),
        scopes=found.spec.scopes,
        resource_ids=None if named is None else tuple(each.uid for each in resources if each is not None),
        created_at=found.metadata.creation_timestamp,
        expires_at=found.spec.expires_at,
        last_used_at=found.status.last_used_at,
        revoked=found.spec.revoked,
    )
