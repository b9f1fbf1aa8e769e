"""source.pod as a whole, over a cluster and clouds that a test makes up."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from gatepass.core.egress import Departure, NodeFacts, PodFacts
from gatepass.core.errors import SourceError
from gatepass.core.types.common import Key
from gatepass.core.types.session import AccessSession
from gatepass.egress.pod import PodFinder
from tests.egress.topology import NODE, NODE_IP, pod

NOW = datetime(2026, 11, 23, 16, tzinfo=UTC)
BARE = NodeFacts("n-1", "kind://docker/kind/n-1", (NODE_IP,), ("203.0.113.4", "2001:db8::4"))


@dataclass
class Cluster:
    """The `Pods` port, over what is written down."""

    pods: dict[Key, PodFacts] = field(default_factory=dict)
    nodes: dict[str, NodeFacts] = field(default_factory=dict)

    async def pod(self, key: Key, session: Key) -> PodFacts | None:
        return self.pods.get(key)

    async def node(self, name: str) -> NodeFacts | None:
        return self.nodes.get(name)

    async def neighbours(self, node: NodeFacts, namespace: str) -> Sequence[NodeFacts]:
        return list(self.nodes.values())


class Cloud:
    """A cloud whose way out is one gateway."""

    def knows(self, provider_id: str) -> bool:
        return provider_id.startswith("aws://")

    async def departures(
        self, pod: PodFacts, node: NodeFacts, neighbours: Callable[[], Awaitable[Sequence[NodeFacts]]]
    ) -> Sequence[Departure]:
        return [Departure("198.51.100.1", f"gateway of {node.name}")]


def session(uid: str = "s-1", recorded: str | None = None) -> AccessSession:
    metadata = {"name": "it", "namespace": "ci", "uid": uid, "creationTimestamp": NOW}
    spec = {"resources": [{"name": "db"}], "source": {"pod": {"name": "runner"}}}
    addresses = [{"ip": "198.51.100.1", "version": 4, "podUID": recorded}] if recorded else []
    return AccessSession.model_validate(
        {"metadata": metadata, "spec": spec, "status": {"source": {"addresses": addresses}}}
    )


@pytest.fixture
def cluster() -> Cluster:
    return Cluster({Key("ci", "runner"): pod()}, {"n-1": NODE})


@pytest.fixture
def finder(cluster: Cluster) -> PodFinder:
    return PodFinder(cluster, [Cloud()], lambda: NOW, lambda _: True)


def change(cluster: Cluster, **changed: Any) -> None:
    cluster.pods[Key("ci", "runner")] = replace(pod(), **changed)


async def refusal(finder: PodFinder, of: AccessSession) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await finder.find(of)
    return caught.value


async def test_what_the_cloud_says_with_the_pods_uid(finder: PodFinder) -> None:
    (found,) = await finder.find(session())
    assert (found.ip, found.version, found.evidence) == ("198.51.100.1", 4, "gateway of n-1")
    assert (found.pod_uid, found.observed_at) == ("u-1", NOW)


async def test_elsewhere_the_nodes_external_addresses(finder: PodFinder, cluster: Cluster) -> None:
    cluster.nodes["n-1"] = BARE
    found = await finder.find(session())
    assert [(each.ip, each.version) for each in found] == [("203.0.113.4", 4), ("2001:db8::4", 6)]
    assert {each.evidence for each in found} == {"ExternalIP of node n-1"}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"phase": "Pending", "node": None, "host_ips": (), "ips": ()}, "PodNotScheduled"),
        ({"phase": "Pending", "ips": ()}, "PodNotRunning"),
        ({"phase": "Unknown"}, "PodNotRunning"),
        ({"ips": ()}, "PodNotRunning"),
        ({"host_ips": ()}, "PodNotRunning"),
        ({"deleting": True}, "PodDeleting"),
    ],
)
async def test_what_an_event_will_change_is_waited_for(
    finder: PodFinder, cluster: Cluster, changed: dict[str, Any], reason: str
) -> None:
    change(cluster, **changed)
    error = await refusal(finder, session())
    assert (error.reason, error.awaited, error.retry) == (reason, True, False)
    cluster.pods.clear()
    assert (await refusal(finder, session())).reason == "PodNotFound"
    assert (await refusal(finder, session())).awaited


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
async def test_a_pod_that_has_finished_is_refused(finder: PodFinder, cluster: Cluster, phase: str) -> None:
    change(cluster, phase=phase)
    error = await refusal(finder, session())
    assert (error.reason, error.refused) == ("PodFinished", True)


async def test_another_pod_of_the_same_name_is_not_it(finder: PodFinder, cluster: Cluster) -> None:
    await finder.find(session())
    change(cluster, uid="u-2")
    assert (await refusal(finder, session())).reason == "PodReplaced", "found a moment ago"
    assert (await refusal(finder, session("s-9", recorded="u-1"))).reason == "PodReplaced", "on record"
    assert await finder.find(session("s-2")), "another session of that name begins with the new pod"
    cluster.pods.clear()
    error = await refusal(finder, session("s-2"))
    assert (error.reason, error.refused) == ("PodReplaced", True)


async def test_a_pod_that_is_known_may_be_on_its_way_out(finder: PodFinder, cluster: Cluster) -> None:
    await finder.find(session())
    change(cluster, deleting=True)
    assert await finder.find(session())


async def test_a_node_that_is_not_there_or_another_one(finder: PodFinder, cluster: Cluster) -> None:
    change(cluster, host_ips=("10.0.1.5",))
    error = await refusal(finder, session())
    assert (error.reason, error.retry) == ("HostAddressMismatch", True)
    cluster.nodes["n-1"] = replace(BARE, external_ips=())
    change(cluster)
    error = await refusal(finder, session())
    assert (error.reason, error.refused) == ("NoExternalAddress", True)
    assert "kind://docker/kind/n-1" in error.message
    cluster.nodes.clear()
    error = await refusal(finder, session())
    assert (error.reason, error.retry) == ("NodeNotFound", True)
