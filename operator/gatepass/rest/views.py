"""Custom resources in the words of the contract."""

import re
from datetime import datetime
from typing import Any, Final

from gatepass.core.errors import UNCLAIMED
from gatepass.core.lifecycle import deadline
from gatepass.core.types.binding import KEY_USER, ApiKeyBinding
from gatepass.core.types.common import Key, format_time
from gatepass.core.types.resource import PortRange, ProtectedResource
from gatepass.core.types.session import AccessSession, Phase, Requester, ResourceState
from gatepass.engine.store import Store
from gatepass.rest.models import ApiKey, Resource
from gatepass.rest.titles import title

_STATES: Final = {
    ResourceState.PENDING: "PENDING",
    ResourceState.WAITING: "PENDING",
    ResourceState.APPLIED: "APPLIED",
    ResourceState.FAILED: "FAILED",
    ResourceState.REMOVING: "REMOVING",
    ResourceState.REMOVED: "REMOVED",
}


def session(found: AccessSession, requester: Requester | None, store: Store) -> dict[str, Any]:
    """A session as the contract's `Session` shows it, and as JSON takes it: a list has a thousand of them."""
    status = found.status
    ranges = found.ranges
    expires_at = status.expires_at
    if expires_at is None or status.observed_generation != found.metadata.generation:
        latest = expires_at  # a longer time is told once it holds, as a dead man's switch may have to be moved before
        expires_at, _ = deadline(found, [each.spec.policy.max_duration for each in store.resources_of(found)])
        expires_at = min(expires_at, latest or expires_at)
    username = requester.username if requester is not None else ""
    return {
        "id": found.uid,
        "userId": requester.uid if requester is not None else None,
        "userName": _short(username),
        "userEmail": username,
        "ipv4Address": next((_bare(cidr) for cidr in ranges if ":" not in cidr), None),
        "ipv6Address": next((_bare(cidr) for cidr in ranges if ":" in cidr), None),
        "status": (status.phase or Phase.PENDING).upper(),
        "startedAt": format_time(found.started_at),
        "expiresAt": format_time(expires_at),
        "endedAt": _time(status.ended_at),
        "endedReason": _shouted(status.ended_reason) if status.ended_reason is not None else None,
        "createdAt": format_time(found.metadata.creation_timestamp),
        "resourceIps": [_ip(found, key, cidr, store) for key in found.resource_keys() for cidr in ranges],
    }


def _ip(found: AccessSession, key: Key, cidr: str, store: Store) -> dict[str, Any]:
    """An address at a resource; the ports of it are told by the first of their rules."""
    entry = found.resource_status(key)
    known = store.resources.get(key)
    first = next((rule for rule in entry.rules if rule.cidr == cidr), None) if entry is not None else None
    return {
        "id": f"{found.uid}/{key}/{cidr}",
        "resourceId": (entry.uid if entry is not None else None) or (known.uid if known is not None else None),
        "resourceName": key.name,
        "ipVersion": 6 if ":" in cidr else 4,
        "ipAddress": _bare(cidr),
        "status": _STATES[entry.state] if entry is not None else "PENDING",
        "providerRuleId": first.id if first is not None else None,
        "appliedAt": _time(first.applied_at) if first is not None else None,
        "removedAt": _time(first.removed_at) if first is not None else None,
        "errorMessage": entry.message if entry is not None and entry.reason != UNCLAIMED else None,
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)


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
