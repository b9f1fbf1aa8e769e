"""source.pod: from a pod to its node, and from there to the addresses that its traffic leaves from."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from gatepass.core.egress import CloudTopology, Pods, by_external_ip, check_host, family, placed
from gatepass.core.errors import SourceError
from gatepass.core.types.common import Key
from gatepass.core.types.session import AccessSession, SourceAddress


class PodFinder:
    """The `SourceFinder` of source.pod. The nodes of no cloud of `clouds` leave by their ExternalIP.

    `now` is UTC. `live` says whether a session is there and has not ended.
    """

    def __init__(
        self,
        pods: Pods,
        clouds: Sequence[CloudTopology],
        now: Callable[[], datetime],
        live: Callable[[Key], bool],
    ) -> None:
        self._pods = pods
        self._clouds = clouds
        self._now = now
        self._live = live
        self._begun: dict[Key, tuple[str, str]] = {}

    async def find(self, session: AccessSession) -> Sequence[SourceAddress]:
        """All addresses that the pod's traffic may leave from; raises SourceError.

        It is the pod that was found first, as status says, and not another one of its name.
        """
        assert session.spec.source.pod is not None, "asked for a session of another kind"  # noqa: S101  a defect
        name = session.spec.source.pod.name
        seen = await self._pods.pod(Key(session.metadata.namespace, name), session.key)
        pod, node_name = placed(seen, name, self._uid(session))
        node = await self._pods.node(node_name)
        if node is None:
            raise SourceError("NodeNotFound", f"pod {name} runs on node {node_name}, which is not there", retry=True)
        check_host(pod, node)
        cloud = next((each for each in self._clouds if each.knows(node.provider_id)), None)
        neighbours = partial(self._pods.neighbours, node, session.metadata.namespace)
        found = by_external_ip(node) if cloud is None else await cloud.departures(pod, node, neighbours)
        self._remember(session, pod.uid)
        now = self._now()
        return [
            SourceAddress(ip=each.ip, version=family(each.ip), evidence=each.evidence, observed_at=now, pod_uid=pod.uid)
            for each in found
        ]

    def _uid(self, session: AccessSession) -> str | None:
        """Which pod it is: on record, or found a moment ago."""
        recorded = session.status.source.addresses if session.status.source else ()
        written = next((each.pod_uid for each in recorded if each.pod_uid is not None), None)
        begun_by, uid = self._begun.get(session.key, (None, None))
        return written or (uid if begun_by == session.uid else None)

    def _remember(self, session: AccessSession, uid: str) -> None:
        if session.key not in self._begun and len(self._begun) % 1000 == 999:
            self._begun = {key: each for key, each in self._begun.items() if self._live(key)}
        self._begun[session.key] = session.uid, uid
