"""Where a pod's traffic leaves from: what the cluster says of a pod and its node, and what follows from that alone."""

import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gatepass.core.errors import SourceError
from gatepass.core.types.common import Key
from gatepass.core.types.session import LONGEST_EVIDENCE


@dataclass(frozen=True, slots=True)
class PodFacts:
    """A pod, as far as it decides where its traffic leaves from. Addresses are as the API server has them."""

    name: str
    uid: str
    phase: str
    node: str | None
    host_ips: tuple[str, ...]
    ips: tuple[str, ...]
    host_network: bool = False
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node: which machine of a cloud it says it is, and the addresses it says it has."""

    name: str
    provider_id: str
    internal_ips: tuple[str, ...]
    external_ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Departure:
    """A public address that a pod's traffic leaves from, and how that is known."""

    ip: str
    evidence: str


class Pods(Protocol):
    """What the cluster says of pods and nodes. `pod` and `node` raise SourceError."""

    async def pod(self, key: Key, session: Key) -> PodFacts | None:
        """The pod; None when there is none. `session` is told of its changes from now on."""
        ...

    async def node(self, name: str) -> NodeFacts | None:
        """The node, as it was some seconds ago at most; None when there is none."""
        ...

    async def neighbours(self, node: NodeFacts, namespace: str) -> Sequence[NodeFacts]:
        """Nodes that may be asked about with this one, such as those of the namespace's pods; a hundred at most."""
        ...


class CloudTopology(Protocol):
    """What a cloud says of the way from one of its machines to the Internet."""

    def knows(self, provider_id: str) -> bool:
        """Is it a machine of this cloud?"""
        ...

    async def departures(
        self, pod: PodFacts, node: NodeFacts, neighbours: Callable[[], Awaitable[Sequence[NodeFacts]]]
    ) -> Sequence[Departure]:
        """Every address that the pod's traffic may leave from; raises SourceError.

        `neighbours` gives the nodes that may be asked about next, so that one call can ask for all of them.
        """
        ...


def canonical_ip(text: str) -> str | None:
    """The address in canonical form; None for what is none, or is IPv4 written as IPv6."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.scope_id)
    return None if mapped else str(address)


def family(ip: str) -> int:
    """4 or 6, of a canonical address."""
    return 6 if ":" in ip else 4


def placed(pod: PodFacts | None, name: str, uid: str | None) -> tuple[PodFacts, str]:
    """The pod and the node that it runs on; raises SourceError while it runs on none.

    With a `uid` only that pod will do, and another one of its name is refused.
    """
    if pod is None and uid is None:
        raise SourceError("PodNotFound", f"there is no pod {name} yet", awaited=True)
    if pod is None or (uid is not None and pod.uid != uid):
        now = "is gone" if pod is None else f"is another one now, with uid {pod.uid}"
        raise SourceError("PodReplaced", f"pod {name}, with uid {uid} when the session began, {now}")
    if pod.phase in ("Succeeded", "Failed"):
        raise SourceError("PodFinished", f"pod {name} has finished ({pod.phase})")
    if pod.deleting and uid is None:
        raise SourceError("PodDeleting", f"pod {name} is being deleted", awaited=True)
    if pod.node is None:
        raise SourceError("PodNotScheduled", f"pod {name} has no node yet", awaited=True)
    if pod.phase != "Running" or not pod.host_ips or not pod.ips:
        raise SourceError("PodNotRunning", f"pod {name} on node {pod.node} does not run yet", awaited=True)
    return pod, pod.node


def check_host(pod: PodFacts, node: NodeFacts) -> None:
    """Raises SourceError unless the pod's host is the node: each of its hostIPs is an InternalIP."""
    strange = [ip for ip in pod.host_ips if ip not in node.internal_ips]
    if strange:
        raise SourceError(
            "HostAddressMismatch",
            f"pod {pod.name} says that its host is {', '.join(strange)}, and node {node.name} that its InternalIP is "
            f"{', '.join(node.internal_ips) or 'none'}",
            retry=True,
        )


def by_external_ip(node: NodeFacts) -> list[Departure]:
    """The node's ExternalIP addresses, for clouds whose topology is not read; raises SourceError when it has none."""
    if not node.external_ips:
        raise SourceError(
            "NoExternalAddress",
            f"node {node.name} ({node.provider_id or 'no providerID'}) has no ExternalIP, so that traffic leaves it by "
            "something that the cluster does not tell, such as a NAT: use source.claim",
        )
    return [Departure(ip, f"ExternalIP of node {node.name}"[:LONGEST_EVIDENCE]) for ip in node.external_ips]
