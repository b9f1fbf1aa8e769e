"""The list of nodes, for the calls of EC2 that many pods share: it holds nobody up, and serves who comes next."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from gatepass.core.egress import NodeFacts
from gatepass.core.gateway import RefusedError
from gatepass.core.ports import ClusterError
from gatepass.kube.api import KubeApi
from gatepass.kube.pods import KubePods


class SlowNodes:
    """An API server that lists its `nodes` when it is told to, and whose first answers to that are `refused`."""

    def __init__(self, *refused: Exception) -> None:
        self.nodes = ["node-1", "node-2"]
        self.listings = 0
        self.answers = asyncio.Event()
        self._refused = list(refused)

    async def answer(self, _method: str, path: str, *, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        if query is None:
            return {"metadata": {"name": path.rpartition("/")[2]}}
        assert query == {"limit": "100"}
        self.listings += 1
        if self._refused:
            raise self._refused.pop(0)
        await self.answers.wait()
        return {"metadata": {}, "items": [{"metadata": {"name": name}} for name in self.nodes]}


async def neighbours_of(pods: KubePods, name: str) -> set[str]:
    return {each.name for each in await pods.neighbours(NodeFacts(name, "", ()), "ci")}


@pytest.mark.looptime
async def test_a_slow_list_of_nodes_serves_those_who_come_next() -> None:
    """Or two hundred pods on twenty nodes would make twenty calls of EC2 where two are enough."""
    loop = asyncio.get_running_loop()
    api = SlowNodes()
    way = cast("KubeApi", api)
    pods = KubePods(way, way, lambda _: None, lambda _: True, loop.time)
    assert await neighbours_of(pods, "node-1") == set()
    assert loop.time() == 0.5, "nobody waits longer for what others may want to know"
    api.answers.set()
    assert await neighbours_of(pods, "node-2") == {"node-1", "node-2"}
    assert await neighbours_of(pods, "node-1") == {"node-1", "node-2"}
    assert api.listings == 1
    await pods.close()


@pytest.mark.looptime
@pytest.mark.parametrize("error", [RefusedError(429, "busy"), ClusterError("cut off")])
async def test_a_list_of_nodes_that_fails_is_tried_again_by_whoever_comes_next(error: Exception) -> None:
    api = SlowNodes(error)
    way = cast("KubeApi", api)
    pods = KubePods(way, way, lambda _: None, lambda _: True, asyncio.get_running_loop().time)
    assert await neighbours_of(pods, "node-1") == set()
    assert await neighbours_of(pods, "node-1") == set()
    api.answers.set()
    assert await neighbours_of(pods, "node-2") == {"node-1", "node-2"}
    assert api.listings == 2
    await pods.close()


@pytest.mark.looptime
async def test_the_first_nodes_of_a_cluster_that_had_none_make_a_new_list() -> None:
    """As when its nodes are scaled to zero while the last pods are asked about, and come back for the next job."""
    loop = asyncio.get_running_loop()
    api = SlowNodes()
    way = cast("KubeApi", api)
    pods = KubePods(way, way, lambda _: None, lambda _: True, loop.time)
    api.nodes = []
    assert await neighbours_of(pods, "node-0") == set()
    assert loop.time() > 0, "what comes now comes after the list was begun"
    api.answers.set()
    assert await neighbours_of(pods, "node-0") == set()
    api.nodes = ["node-1", "node-2"]
    assert await pods.node("node-1") is not None
    assert await neighbours_of(pods, "node-1") == {"node-1", "node-2"}
    await pods.close()
