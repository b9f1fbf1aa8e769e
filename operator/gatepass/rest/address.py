"""Who calls: the socket's peer, or what trusted proxies say of it."""

import ipaddress
from collections.abc import Sequence

from starlette.types import Scope

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def caller(scope: Scope, trusted: Sequence[Network]) -> Address | None:
    """The caller's address; None when there is none, as on a Unix socket, or a trusted proxy does not know it.

    The peer, unless it is a trusted proxy: then the rightmost X-Forwarded-For that is not one. What stands left of it
    anybody may have written.
    """
    peer = parse(scope["client"][0]) if scope.get("client") else None
    if peer is None or not _is_in(peer, trusted):
        return peer
    forwarded = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for").decode("latin-1")
    found = peer
    for text in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
        hop = parse(text)
        if hop is None:
            return None  # nothing left of it can be believed, and the proxy itself is not who calls
        found = hop
        if not _is_in(hop, trusted):
            return found
    return found


def parse(text: str) -> Address | None:
    """An address, also as proxies write it with a port or in brackets; IPv4-mapped IPv6 is IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if found.version == 6 else None
    return mapped or found


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
