"""What the environment has to say of the way to the API server, and what stands in that way."""

import asyncio
import json
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio.client import Configuration
from kubernetes.aio.config.incluster_config import InClusterConfigLoader

from gatepass.core.ports import ClusterError
from gatepass.kube.api import KubeApi
from gatepass.kube.clock import CorrectedClock
from gatepass.kube.operator import client_for, login
from gatepass.sandbox.environment import Sandbox
from tests.kube.conftest import client_of

SERVER = "https://cluster.example:6443"
PROXY = "http://proxy.example:3128"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine that runs the tests."""
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


async def ways(configuration: Configuration) -> set[str | None]:
    """The proxies of our own calls, and of kopf's."""
    async with client_for(configuration, workers=1) as client:
        return {client.rest_client.proxy, (await login(client)).proxy_url}


async def test_without_a_proxy_nobody_has_one() -> None:
    assert await ways(Configuration(host=SERVER)) == {None}


async def test_the_environments_proxy_is_everybodys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    assert await ways(Configuration(host=SERVER)) == {PROXY}


@pytest.mark.parametrize("exempt", ["cluster.example", "other.example,.example", "*"])
async def test_it_is_not_used_for_what_is_exempt(monkeypatch: pytest.MonkeyPatch, exempt: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", exempt)
    assert await ways(Configuration(host=SERVER)) == {None}


async def test_the_kubeconfigs_proxy_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    configuration = Configuration(host=SERVER)
    configuration.proxy = "http://own.example:8080"
    assert await ways(configuration) == {"http://own.example:8080"}


async def test_somebodys_netrc_is_not_ours(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = sandbox.control_plane.server
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {urlsplit(server).hostname} login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with client_of(sandbox, server) as client:
        namespace = await KubeApi(client, CorrectedClock()).call("GET", "/api/v1/namespaces/kube-system")
    assert namespace["metadata"]["uid"]


async def test_a_watch_that_whoever_answers_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a proxy that holds it, however long we have asked for; liveness rests on it."""
    monkeypatch.setattr("gatepass.kube.api.CLIENT_SECONDS", 0.5)
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "7"}}}
    ended = asyncio.Event()

    async def tell(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(json.dumps(bookmark).encode() + b"\n")
        await ended.wait()
        return answer

    proxy = web.Application()
    proxy.router.add_get("/api/v1/pods", tell)
    async with TestServer(proxy) as server, client_for(Configuration(host=str(server.make_url(""))), 1) as client:
        api = KubeApi(client, CorrectedClock())
        async with asyncio.timeout(30):
            with pytest.raises(ClusterError):
                assert [event async for event in api.watch("/api/v1/pods", "1")] == []
        ended.set()


async def test_an_answer_that_is_no_json_is_no_answer() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="<html>", content_type="application/json")

    app = web.Application()
    app.router.add_get("/version", answer)
    async with TestServer(app) as server, client_for(Configuration(host=str(server.make_url(""))), 1) as client:
        with pytest.raises(ClusterError, match="no JSON"):
            await KubeApi(client, CorrectedClock()).call("GET", "/version")


@pytest.mark.parametrize("content", ["", None])
async def test_a_token_that_cannot_be_read_is_a_failed_call(
    sandbox: Sandbox, tmp_path: Path, content: str | None
) -> None:
    """The kubelet replaces the file, and may not get a new one for a while."""
    token = tmp_path / "token"
    token.write_text("ours")
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
    configuration = Configuration()
    loader = InClusterConfigLoader(str(token), str(sandbox.control_plane.ca), environ=environ)
    loader.load_and_set(configuration)
    loader.token_expires_at = datetime.fromtimestamp(0)  # noqa: DTZ006 (naive, as the loader's)
    token.unlink() if content is None else token.write_text(content)
    async with client_for(configuration, workers=1) as client:
        with pytest.raises(ClusterError, match="no token"):
            await KubeApi(client, CorrectedClock()).call("GET", "/version")
