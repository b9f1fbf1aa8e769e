"""Pods and nodes, for who asks where a pod's traffic leaves from.

One watch for each namespace with a live session that names a pod of it, and none else. A watch for each pod would take
a connection for each; one for all namespaces would bring every pod of the cluster.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import structlog

from gatepass.core.egress import NodeFacts, PodFacts, canonical_ip
from gatepass.core.errors import SourceError
from gatepass.core.gateway import RefusedError
from gatepass.core.ports import ClusterError
from gatepass.core.types.common import Key
from gatepass.kube.api import TIMEOUT_SECONDS, KubeApi

log = structlog.get_logger(__name__)

_PER_PAGE: Final = 200
_PAUSE_SECONDS: Final = 1.0
_NODE_KEPT_SECONDS: Final = 10.0
_MOST_NODES: Final = 100
"""That are asked about together."""
_READS_AT_ONCE: Final = 16
"""Of nodes: the lease, statuses and events go by the same connections."""
_MOMENT_SECONDS: Final = 0.5
"""That a session waits for nodes which only others may want to know of."""
_FORBIDDEN_TIMES: Final = 5
"""So often in a row, a pause apart: an API server that has just started knows no roles yet, and forbids everything."""
_FORBIDDEN, _NOT_FOUND, _TOO_OLD = 403, 404, 410


@dataclass(eq=False)
class _Namespace:
    """What is known of the pods of a namespace, and the sessions that name them."""

    name: str
    pods: dict[str, PodFacts] = field(default_factory=dict)
    named: defaultdict[str, set[Key]] = field(default_factory=lambda: defaultdict(set))
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    trouble: SourceError | None = None


class KubePods:
    """The `Pods` port.

    `changed` is called with each session that names a pod which is another one than before, in what decides where its
    traffic leaves from; `live` says whether a session is to be told any more. `watching` holds a connection for each
    namespace, `api` answers quickly.
    """

    def __init__(
        self,
        api: KubeApi,
        watching: KubeApi,
        changed: Callable[[Key], None],
        live: Callable[[Key], bool],
        monotonic: Callable[[], float],
    ) -> None:
        self._api = api
        self._watching = watching
        self._changed = changed
        self._live = live
        self._monotonic = monotonic
        self._namespaces: dict[str, _Namespace] = {}
        self._watches: set[asyncio.Task[None]] = set()
        self._nodes: dict[str, tuple[float, asyncio.Task[NodeFacts | None]]] = {}
        self._reads = asyncio.Semaphore(_READS_AT_ONCE)
        self._listed: tuple[float, asyncio.Task[dict[str, NodeFacts] | None]] | None = None

    @property
    def watched(self) -> frozenset[str]:
        """The namespaces with a watch."""
        return frozenset(self._namespaces)

    async def pod(self, key: Key, session: Key) -> PodFacts | None:
        """The pod, as the watch has it; None when there is none. `session` is told of its changes from now on."""
        namespace = self._namespaces.get(key.namespace) or self._begin(key.namespace)
        namespace.named[key.name].add(session)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await namespace.looked.wait()
        except TimeoutError:
            raise SourceError("PodsNotRead", f"the API server gives no list of pods of {key.namespace}", True) from None
        if namespace.trouble is not None:
            raise namespace.trouble
        return namespace.pods.get(key.name)

    async def node(self, name: str) -> NodeFacts | None:
        """The node, as it was at most 10 s ago; None when there is none."""
        now = self._monotonic()
        kept = self._nodes.get(name)
        if kept is None or kept[0] + _NODE_KEPT_SECONDS <= now:
            self._nodes = {each: kept for each, kept in self._nodes.items() if kept[0] + _NODE_KEPT_SECONDS > now}
            kept = self._nodes[name] = now, asyncio.create_task(self._read_node(name))
        try:
            found = await asyncio.shield(kept[1])
        except SourceError:
            self._forget_node(name, kept[1])
            raise
        if found is None:
            self._forget_node(name, kept[1])
        return found

    async def neighbours(self, node: NodeFacts, namespace: str) -> Sequence[NodeFacts]:
        """All nodes of a small cluster; of a larger one those on which pods of a watched namespace run.

        A hundred at most, as far as they can be read in a moment.
        """
        if (all_ := await self._all_nodes(node.name)) is not None:
            return all_
        watched = self._namespaces.get(namespace)
        running = (pod.node for pod in watched.pods.values() if pod.phase == "Running") if watched else ()
        names = list(dict.fromkeys(name for name in running if name))[:_MOST_NODES]
        if not names:
            return []
        reads = [asyncio.create_task(self.node(name)) for name in names]
        read, late = await asyncio.wait(reads, timeout=_MOMENT_SECONDS)
        for each in late:
            each.cancel()  # the one who waits, and not the read
        return [found for each in read if each.exception() is None and (found := each.result()) is not None]

    async def _all_nodes(self, name: str) -> Sequence[NodeFacts] | None:
        """None when there are more than a hundred, or nobody says in a moment.

        They are known for as long as one that was read; listed anew when the node of this name has come since.
        """
        now = self._monotonic()
        if self._listed is None or self._listed[0] + _NODE_KEPT_SECONDS <= now or self._has_come_since(name):
            self._listed = now, asyncio.create_task(self._list_nodes())
        try:
            async with asyncio.timeout(_MOMENT_SECONDS):
                listed = await asyncio.shield(self._listed[1])  # which goes on for those who come next
        except TimeoutError:
            return None
        return None if listed is None else list(listed.values())

    def _has_come_since(self, name: str) -> bool:
        kept = self._nodes.get(name)
        if kept is None or self._listed is None or not self._listed[1].done():
            return False
        at, listing = self._listed
        listed = listing.result()
        return listed is not None and kept[0] > at and name not in listed

    async def _list_nodes(self) -> dict[str, NodeFacts] | None:
        try:
            page = await self._api.answer("GET", "/api/v1/nodes", query={"limit": str(_MOST_NODES)})
        except (ClusterError, RefusedError) as error:
            log.info("cannot list nodes", error=str(error))
            self._listed = None  # who asks next tries it again
            return None
        if page["metadata"].get("continue"):
            return None
        return {each.name: each for each in map(node_facts, page["items"])}

    def _forget_node(self, name: str, task: "asyncio.Task[NodeFacts | None]") -> None:
        if name in self._nodes and self._nodes[name][1] is task:
            del self._nodes[name]

    async def _read_node(self, name: str) -> NodeFacts | None:
        forbidden = 0
        while True:
            try:
                async with self._reads:
                    return node_facts(await self._api.answer("GET", f"/api/v1/nodes/{quote(name, safe='')}"))
            except RefusedError as error:
                if error.status == _NOT_FOUND:
                    return None
                forbidden += 1
                if error.status != _FORBIDDEN or forbidden == _FORBIDDEN_TIMES:
                    raise _told(error, "nodes") from error
            except ClusterError as error:
                raise SourceError("NodeNotRead", str(error), retry=True) from error
            await asyncio.sleep(_PAUSE_SECONDS)

    async def close(self) -> None:
        """End the watches."""
        tasks: list[asyncio.Task[Any]] = [*self._watches, *(task for _, task in self._nodes.values())]
        if self._listed is not None:
            tasks.append(self._listed[1])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # watching

    def _begin(self, name: str) -> _Namespace:
        namespace = self._namespaces[name] = _Namespace(name)
        task = asyncio.create_task(self._follow(namespace))
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)
        return namespace

    async def _follow(self, namespace: _Namespace) -> None:
        """List and watch for as long as a live session names a pod here, or until it turns out to be forbidden."""
        path = f"/api/v1/namespaces/{quote(namespace.name, safe='')}/pods"
        version, forbidden = "", 0
        while not self._retired(namespace):
            try:
                version = version or await self._list(namespace, path)
                forbidden = 0
                began = self._monotonic()
                async with aclosing(self._watching.watch(path, version)) as events:
                    async for event in events:
                        version = event["object"]["metadata"]["resourceVersion"]
                        if event["type"] != "BOOKMARK":
                            self._seen(namespace, event)
                        elif self._retired(namespace):
                            return
                if self._monotonic() < began + _PAUSE_SECONDS:
                    await self._pause(namespace, "the watch ended as soon as it had begun")
            except RefusedError as error:
                version = ""
                forbidden = forbidden + 1 if error.status == _FORBIDDEN else 0
                if forbidden == _FORBIDDEN_TIMES:
                    del self._namespaces[namespace.name]
                    followed = namespace.looked.is_set()
                    self._fail(namespace, _told(error, "pods"))
                    if followed:  # nobody waits for an event that will not come
                        self._tell(namespace, list(namespace.named))
                    return
                if error.status == _FORBIDDEN:
                    await asyncio.sleep(_PAUSE_SECONDS)  # told once it is certain
                elif error.status != _TOO_OLD:
                    await self._pause(namespace, error.message)
            except ClusterError as error:
                await self._pause(namespace, str(error))

    async def _pause(self, namespace: _Namespace, why: str) -> None:
        log.info("cannot watch pods", namespace=namespace.name, error=why)
        if not namespace.looked.is_set():
            self._fail(namespace, SourceError("PodsNotRead", why, retry=True))
        await asyncio.sleep(_PAUSE_SECONDS)

    def _fail(self, namespace: _Namespace, trouble: SourceError) -> None:
        namespace.trouble = trouble
        namespace.looked.set()

    async def _list(self, namespace: _Namespace, path: str) -> str:
        """Read all pods in pages, tell of those that differ from what was known, and give the version."""
        found: dict[str, PodFacts] = {}
        version = ""
        async for page in self._watching.pages(path, {"limit": str(_PER_PAGE)}):
            facts = map(pod_facts, page.get("items", ()))
            found |= {each.name: each for each in facts}
            version = str(page["metadata"]["resourceVersion"])
        before, namespace.pods = namespace.pods, found
        for pod in found.values():
            self._doubt_node(pod, before.get(pod.name))
        refused, namespace.trouble = namespace.trouble is not None, None
        if namespace.looked.is_set():  # before, nobody has been told anything
            self._tell(namespace, [n for n in namespace.named if refused or before.get(n) != found.get(n)])
        namespace.looked.set()
        return version

    def _seen(self, namespace: _Namespace, event: Mapping[str, Any]) -> None:
        pod = pod_facts(event["object"])
        before = namespace.pods.get(pod.name)
        self._doubt_node(pod, before)
        if event["type"] == "DELETED":
            namespace.pods.pop(pod.name, None)
        else:
            namespace.pods[pod.name] = pod
        if before != namespace.pods.get(pod.name):
            self._tell(namespace, [pod.name])

    def _doubt_node(self, pod: PodFacts, before: PodFacts | None) -> None:
        """A pod that has come to a node may have come to another one of its name than the one that was read."""
        if pod.node in self._nodes and (before is None or (before.uid, before.node) != (pod.uid, pod.node)):
            self._nodes[pod.node] = float("-inf"), self._nodes[pod.node][1]

    def _tell(self, namespace: _Namespace, names: Iterable[str]) -> None:
        for name in names:
            for session in namespace.named.get(name, ()):
                self._changed(session)

    def _retired(self, namespace: _Namespace) -> bool:
        """Does no live session name a pod here any more? Then the next that does begins anew."""
        for name, sessions in list(namespace.named.items()):
            sessions.intersection_update([each for each in sessions if self._live(each)])
            if not sessions:
                del namespace.named[name]
        if not namespace.named:
            del self._namespaces[namespace.name]
        return not namespace.named


def _told(error: RefusedError, what: str) -> SourceError:
    if error.status == _FORBIDDEN:
        remedy = "source.pod is switched off in this installation (chart value podSource.enabled): use source.claim"
        return SourceError("NotAuthorized", f"Gatepass may not read {what}: {remedy}")
    return SourceError("PodsNotRead", f"{error.status}: {error.message}", retry=True)


def pod_facts(body: Mapping[str, Any]) -> PodFacts:
    """What of a pod decides where its traffic leaves from."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    return PodFacts(
        name=metadata["name"],
        uid=metadata["uid"],
        phase=status.get("phase", ""),
        node=spec.get("nodeName") or None,
        host_ips=_addresses(status.get("hostIPs"), status.get("hostIP")),
        ips=_addresses(status.get("podIPs"), status.get("podIP")),
        host_network=bool(spec.get("hostNetwork")),
        deleting="deletionTimestamp" in metadata,
    )


def node_facts(body: Mapping[str, Any]) -> NodeFacts:
    """What of a node decides where the traffic of its pods leaves from."""
    addresses = (body.get("status") or {}).get("addresses") or ()
    by_type = {
        kind: tuple(
            dict.fromkeys(filter(None, (canonical_ip(each["address"]) for each in addresses if each["type"] == kind)))
        )
        for kind in ("InternalIP", "ExternalIP")
    }
    return NodeFacts(
        name=body["metadata"]["name"],
        provider_id=(body.get("spec") or {}).get("providerID", ""),
        internal_ips=by_type["InternalIP"],
        external_ips=by_type["ExternalIP"],
    )


def _addresses(several: Any, one: str | None) -> tuple[str, ...]:
    given = [each["ip"] for each in several or ()] or ([one] if one else [])
    return tuple(filter(None, map(canonical_ip, given)))
