"""Pods and nodes from a real API server: by events and not by asking again, and only where a session looks."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from itertools import count
from typing import Any, cast

import pytest

from gatepass.core.egress import NodeFacts
from gatepass.core.errors import SourceError
from gatepass.core.gateway import RefusedError
from gatepass.core.ports import ClusterError
from gatepass.core.types.common import Key
from gatepass.kube.api import MERGE_PATCH, KubeApi
from gatepass.kube.clock import CorrectedClock
from gatepass.kube.pods import KubePods
from gatepass.sandbox.environment import Sandbox
from tests.kube.conftest import Wire, client_of

_numbers = count(1)
PATIENCE_SECONDS = 20.0
STATUS = {"phase": "Running", "hostIP": "10.0.0.4", "podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.9"}]}


class Cluster:
    """A namespace, who runs pods in it, and who is told of them."""

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self.told: asyncio.Queue[Key] = asyncio.Queue()
        self.live = {self.session(name) for name in ("it", "other")}
        self.found_over = asyncio.Event()

    def is_live(self, session: Key) -> bool:
        """What the engine would say."""
        if session not in self.live:
            self.found_over.set()
        return session in self.live

    def session(self, name: str = "it") -> Key:
        return Key(self.namespace, name)

    def pod(self, name: str = "runner") -> Key:
        return Key(self.namespace, name)

    def path(self, name: str = "") -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods" + (f"/{name}" if name else "")

    async def run(self, name: str = "runner", **spec: Any) -> str:
        """Create a pod; answers with its uid."""
        body = {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}], **spec}}
        return str((await self.api.call("POST", self.path(), body))["metadata"]["uid"])

    async def set_status(self, name: str = "runner", **status: Any) -> None:
        """What the kubelet would say."""
        await self.api.call(
            "PATCH", f"{self.path(name)}/status", {"status": {**STATUS, **status}}, content_type=MERGE_PATCH
        )

    async def remove(self, name: str = "runner") -> None:
        """Delete a pod at once."""
        await self.api.call("DELETE", self.path(name), {"gracePeriodSeconds": 0})

    async def until_told(self) -> Key:
        """Wait for word of a change."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.told.get()


@pytest.fixture
async def cluster(api: KubeApi) -> Cluster:
    """A new namespace, with the service account that pods need."""
    name = f"pods-{next(_numbers)}"
    await api.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    try:
        await api.call("POST", f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})
    except Exception as error:  # the controller was faster
        assert "already exists" in str(error)  # noqa: PT017
    return Cluster(api, name)


def watcher(cluster: Cluster, api: KubeApi) -> KubePods:
    return KubePods(api, api, cluster.told.put_nowait, cluster.is_live, CorrectedClock().monotonic)


@pytest.fixture
async def pods(cluster: Cluster, api: KubeApi) -> AsyncIterator[KubePods]:
    """What is tested."""
    made = watcher(cluster, api)
    yield made
    await made.close()


async def test_a_pod_that_comes_later_is_told_of_at_each_step(cluster: Cluster, pods: KubePods) -> None:
    pod, session = cluster.pod(), cluster.session()
    assert await pods.pod(pod, session) is None
    uid = await cluster.run()
    assert await cluster.until_told() == session
    found = await pods.pod(pod, session)
    assert found is not None
    assert (found.uid, found.phase, found.node, found.ips) == (uid, "Pending", None, ())
    binding = {"metadata": {"name": "runner"}, "target": {"kind": "Node", "name": "node-1"}}
    await cluster.api.call("POST", f"{cluster.path('runner')}/binding", binding)
    await cluster.until_told()
    await cluster.set_status()
    await cluster.until_told()
    found = await pods.pod(pod, session)
    assert found is not None
    assert (found.phase, found.node, found.host_ips, found.ips) == ("Running", "node-1", ("10.0.0.4",), ("10.0.0.9",))


async def test_another_pod_of_the_same_name_has_another_uid(cluster: Cluster, pods: KubePods) -> None:
    pod, session = cluster.pod(), cluster.session()
    first = await cluster.run()
    found = await pods.pod(pod, session)
    assert found is not None
    assert found.uid == first
    await cluster.remove()
    second = await cluster.run()
    while found is None or found.uid == first:
        await cluster.until_told()
        found = await pods.pod(pod, session)
    assert found.uid == second


async def test_only_the_sessions_that_name_the_pod_are_told(cluster: Cluster, pods: KubePods) -> None:
    for name in ("runner", "stranger"):
        await cluster.run(name)
    await pods.pod(cluster.pod(), cluster.session())
    await pods.pod(cluster.pod("stranger"), cluster.session("other"))
    await cluster.set_status("stranger")
    assert await cluster.until_told() == cluster.session("other")
    await cluster.set_status()
    assert await cluster.until_told() == cluster.session()
    assert cluster.told.empty()


async def test_what_decides_nothing_is_told_to_nobody(cluster: Cluster, pods: KubePods) -> None:
    await cluster.run()
    await pods.pod(cluster.pod(), cluster.session())
    body = {"metadata": {"labels": {"seen": "yes"}}}
    await cluster.api.call("PATCH", cluster.path("runner"), body, content_type=MERGE_PATCH)
    await cluster.set_status()
    await cluster.until_told()
    assert cluster.told.empty()


async def test_one_watch_for_each_namespace_in_use(cluster: Cluster, pods: KubePods, sandbox: Sandbox) -> None:
    for number in range(5):
        cluster.live.add(cluster.session(f"it-{number}"))
        assert await pods.pod(cluster.pod(f"pod-{number}"), cluster.session(f"it-{number}")) is None
    await cluster.run("pod-0")
    await cluster.until_told()
    log = sandbox.control_plane.audit_log.read_text().rpartition("\n")[0].splitlines()
    asked = [json.loads(line) for line in log if f"/namespaces/{cluster.namespace}/pods?" in line]
    assert len({each["auditID"] for each in asked if each["verb"] == "list"}) == 1
    assert len({each["auditID"] for each in asked if each["verb"] == "watch"}) == 1
    assert pods.watched == {cluster.namespace}


async def test_the_watch_ends_with_the_last_session(cluster: Cluster, wire: tuple[Wire, KubeApi]) -> None:
    """It looks at each bookmark, which comes every minute, and whenever the watch begins anew."""
    line, api = wire
    pods = watcher(cluster, api)
    await pods.pod(cluster.pod(), cluster.session())
    await cluster.run()
    await cluster.until_told()  # by the watch, which is there by now
    assert pods.watched == {cluster.namespace}
    cluster.live.clear()
    await line.cut()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await cluster.found_over.wait()
    assert pods.watched == frozenset()
    cluster.live.add(cluster.session())
    assert await pods.pod(cluster.pod(), cluster.session()) is not None, "and begins anew"
    await pods.close()


async def test_a_watch_that_breaks_off_begins_anew_and_misses_nothing(
    cluster: Cluster, wire: tuple[Wire, KubeApi]
) -> None:
    line, api = wire
    pods = watcher(cluster, api)
    assert await pods.pod(cluster.pod(), cluster.session()) is None
    await cluster.run()
    await cluster.until_told()  # by the watch, which is there by now
    await line.cut()
    await cluster.set_status()
    await cluster.until_told()
    found = await pods.pod(cluster.pod(), cluster.session())
    assert found is not None
    assert found.phase == "Running"
    await pods.close()


async def test_who_may_not_read_pods_or_nodes_says_so_and_does_not_ask_on(cluster: Cluster, sandbox: Sandbox) -> None:
    await cluster.api.call(
        "POST", f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts", {"metadata": {"name": "nobody"}}
    )
    token = sandbox.control_plane.account_token(cluster.namespace, "nobody")
    async with client_of(sandbox, sandbox.control_plane.server, token) as client:
        pods = watcher(cluster, KubeApi(client, CorrectedClock()))
        for asked in (pods.pod(cluster.pod(), cluster.session()), pods.node("node-1")):
            with pytest.raises(SourceError) as caught:
                await asked
            assert caught.value.reason == "NotAuthorized"
            assert not caught.value.retry
            assert "podSource.enabled" in caught.value.message
        assert pods.watched == frozenset()
        await pods.close()


async def test_who_may_not_read_pods_any_more_keeps_nobody_waiting(
    cluster: Cluster, sandbox: Sandbox, wire: tuple[Wire, KubeApi]
) -> None:
    line, _ = wire
    name, home = cluster.namespace, f"namespaces/{cluster.namespace}"
    rbac = f"/apis/rbac.authorization.k8s.io/v1/{home}"
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    subject = {"kind": "ServiceAccount", "name": "reader", "namespace": name}
    await cluster.api.call("POST", f"/api/v1/{home}/serviceaccounts", {"metadata": {"name": "reader"}})
    await cluster.api.call("POST", f"{rbac}/roles", {"metadata": {"name": "reader"}, "rules": rules})
    binding = {"metadata": {"name": "reader"}, "roleRef": role, "subjects": [subject]}
    await cluster.api.call("POST", f"{rbac}/rolebindings", binding)
    server = await asyncio.start_server(line.carry, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    token = sandbox.control_plane.account_token(name, "reader")
    async with (
        client_of(sandbox, url, token) as client,
        client_of(sandbox, sandbox.control_plane.server, token) as another,
    ):
        pods = watcher(cluster, KubeApi(client, CorrectedClock()))
        while not await _may_read(pods, cluster):  # until the authorizer has heard of the role
            await cluster.api.call("GET", cluster.path())
        await cluster.run()
        await cluster.until_told()  # by the watch, which is there by now
        await cluster.api.call("DELETE", f"{rbac}/rolebindings/reader")
        while await _may_list(KubeApi(another, CorrectedClock()), cluster.path()):
            pass  # until the authorizer has heard of that
        await line.cut()
        assert await cluster.until_told() == cluster.session()
        with pytest.raises(SourceError) as caught:
            await pods.pod(cluster.pod(), cluster.session())
        assert caught.value.reason == "NotAuthorized"
        await pods.close()
    server.close()
    await server.wait_closed()


async def _may_list(api: KubeApi, path: str) -> bool:
    try:
        await api.call("GET", path)
    except ClusterError:
        return False
    return True


async def _may_read(pods: KubePods, cluster: Cluster) -> bool:
    try:
        await pods.pod(cluster.pod(), cluster.session())
    except SourceError:
        return False
    return True


class Starting:
    """An API server that has just started, and forbids everything so many times: its roles are not there yet."""

    def __init__(self, times: int) -> None:
        self._left = {"pods": times, "nodes": times}

    def _admit(self, what: str) -> None:
        self._left[what] -= 1
        if self._left[what] >= 0:
            raise RefusedError(403, "RBAC: clusterrole not found")

    async def answer(self, _method: str, _path: str) -> dict[str, Any]:
        self._admit("nodes")
        return {"metadata": {"name": "node-1"}, "spec": {"providerID": "kind://node-1"}}

    async def pages(self, _path: str, _query: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
        self._admit("pods")
        pod = {"metadata": {"name": "runner", "uid": "u-1"}, "status": {"phase": "Pending"}}
        yield {"metadata": {"resourceVersion": "1"}, "items": [pod]}

    async def watch(self, _path: str, _version: str) -> AsyncIterator[dict[str, Any]]:
        await asyncio.Event().wait()
        yield {}


@pytest.mark.looptime
@pytest.mark.parametrize(("times", "known"), [(0, True), (3, True), (5, False)])
async def test_what_an_api_server_forbids_while_it_starts_is_asked_again(times: int, known: bool) -> None:
    api, loop = cast("KubeApi", Starting(times)), asyncio.get_running_loop()
    pods = KubePods(api, api, lambda _: None, lambda _: True, loop.time)
    for asked in (pods.pod(Key("ci", "runner"), Key("ci", "it")), pods.node("node-1")):
        if known:
            assert await asked is not None
            continue
        with pytest.raises(SourceError) as caught:
            await asked
        assert caught.value.reason == "NotAuthorized"
    await pods.close()


class Impatient:
    """A way to an API server, or to something before it, that ends each watch at once."""

    def __init__(self) -> None:
        self.watches = 0

    async def pages(self, _path: str, _query: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
        yield {"metadata": {"resourceVersion": "1"}, "items": []}

    async def watch(self, _path: str, _version: str) -> AsyncIterator[dict[str, Any]]:
        self.watches += 1
        return
        yield


@pytest.mark.looptime
async def test_a_watch_that_ends_at_once_is_not_begun_anew_at_once() -> None:
    api, session = Impatient(), Key("ci", "it")
    loop = asyncio.get_running_loop()
    pods = KubePods(cast("KubeApi", api), cast("KubeApi", api), lambda _: None, lambda _: True, loop.time)
    assert await pods.pod(Key("ci", "runner"), session) is None
    await asyncio.sleep(30)
    assert 10 <= api.watches <= 31
    await pods.close()


async def test_a_node_is_read_once_for_all_who_ask(cluster: Cluster, pods: KubePods, sandbox: Sandbox) -> None:
    name = f"node-of-{cluster.namespace}"
    assert await pods.node(name) is None
    body = {"metadata": {"name": name}, "spec": {"providerID": "aws:///eu-central-1a/i-1"}}
    await cluster.api.call("POST", "/api/v1/nodes", body)
    found = await asyncio.gather(*(pods.node(name) for _ in range(20)))
    assert found == [NodeFacts(name, "aws:///eu-central-1a/i-1", ())] * 20
    log = sandbox.control_plane.audit_log.read_text().rpartition("\n")[0].splitlines()
    asked = {each["auditID"] for each in map(json.loads, log) if each["requestURI"] == f"/api/v1/nodes/{name}"}
    assert len(asked) == 2


@pytest.mark.parametrize("few", [True, False])
async def test_the_neighbours_are_all_nodes_or_those_of_a_namespaces_pods(
    cluster: Cluster, pods: KubePods, monkeypatch: pytest.MonkeyPatch, few: bool
) -> None:
    if not few:
        monkeypatch.setattr("gatepass.kube.pods._MOST_NODES", 1)
    names = [f"{cluster.namespace}-{number}" for number in range(3)]
    for name in names[1:]:  # the first is not there
        await cluster.api.call("POST", "/api/v1/nodes", {"metadata": {"name": name}})
    for pod, name in (("a", names[0]), ("b", names[1])):
        await cluster.run(pod, nodeName=name)
        await cluster.set_status(pod)
    await pods.pod(cluster.pod("a"), cluster.session())
    node = await pods.node(names[1])
    assert node is not None
    found = {each.name for each in await pods.neighbours(node, cluster.namespace)}
    assert found & set(names) == ({names[1], names[2]} if few else set())
    monkeypatch.setattr("gatepass.kube.pods._MOST_NODES", 2)
    assert names[1] in {each.name for each in await pods.neighbours(node, cluster.namespace)}


async def test_a_node_that_has_come_since_the_list_makes_a_new_one(cluster: Cluster, pods: KubePods) -> None:
    names = [f"{cluster.namespace}-{number}" for number in range(3)]
    found = []
    for name in names:
        await cluster.api.call("POST", "/api/v1/nodes", {"metadata": {"name": name}})
        node = await pods.node(name)
        assert node is not None
        found.append({each.name for each in await pods.neighbours(node, cluster.namespace)} & set(names))
    assert found == [set(names[:1]), set(names[:2]), set(names)]


async def test_a_pod_on_another_node_of_the_same_name_is_not_taken_for_the_last_ones_neighbour(
    cluster: Cluster, pods: KubePods
) -> None:
    """As where machines are replaced, and keep their names."""
    name = f"node-of-{cluster.namespace}"
    for number in (1, 2):
        machine = f"aws:///eu-central-1a/i-{number}"
        body = {"metadata": {"name": name}, "spec": {"providerID": machine}}
        await cluster.api.call("POST", "/api/v1/nodes", body)
        await cluster.run(nodeName=name)
        while (found := await pods.pod(cluster.pod(), cluster.session())) is None:
            await cluster.until_told()
        assert found.node == name
        assert await pods.node(name) == NodeFacts(name, machine, ())
        await cluster.remove()
        await cluster.until_told()
        await cluster.api.call("DELETE", f"/api/v1/nodes/{name}")
