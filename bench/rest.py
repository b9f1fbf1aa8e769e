"""`python -m bench.rest`: what the REST API adds to a bare create and to bare JSON; written to bench/rest.json."""

import asyncio
import contextlib
import json
import os
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, CustomObjectsApi
from rich.console import Console

from bench.figures import Figure, conclude, percentile
from bench.observed import breaches, figure, observed
from bench.scene import ec2_client
from gatepass.core.keys import ENTROPY_BYTES, key_hash, make_key
from gatepass.core.types.common import FINALIZER, REQUESTED_BY
from gatepass.sandbox.cloud import REGION
from gatepass.sandbox.environment import Sandbox
from gatepass.sandbox.kubeapi import KubeApi

RESULTS = Path(__file__).with_name("rest.json")
ONES, LISTED, CLIENTS, EACH, STARTS = 100, 1000, 64, 4, 5
GROUP, VERSION, NAMESPACE, PLURAL = "gatepass.dev", "v1alpha1", "default", "accesssessions"
HERE = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}"
_PAUSE = 0.05
_SETTLE = 3.0
CALLER = "198.51.100.7"


async def timed(work: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    """How many seconds it took, and what came of it."""
    started = time.perf_counter()
    found = await work()
    return time.perf_counter() - started, found


def prepare(api: KubeApi, group: str) -> tuple[str, str]:
    """A door and a key to it: the key, and the uid of its binding."""
    text = make_key(os.urandom(ENTROPY_BYTES))
    meta = {"apiVersion": f"{GROUP}/{VERSION}"}
    door = {"aws": {"region": REGION, "securityGroups": [group]}, "ports": [{"port": 5432}]}
    api.request(
        "POST",
        f"{HERE}/protectedresources",
        {**meta, "kind": "ProtectedResource", "metadata": {"name": "db"}, "spec": door},
    )
    spec = {"keyHash": key_hash(text), "scopes": ["sessions:read", "sessions:write"], "resources": [{"name": "db"}]}
    body = {**meta, "kind": "ApiKeyBinding", "metadata": {"name": "ci"}, "spec": spec}
    return text, api.request("POST", f"{HERE}/apikeybindings", body)["metadata"]["uid"]


def known(sandbox: Sandbox, key: str) -> None:
    """Return when the key works and its door is verified, so that nothing waits for news."""
    url = f"http://127.0.0.1:{sandbox.env['GATEPASS_API_PORT']}/api/v1/auth/me"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            request = urllib.request.Request(url, headers={"X-API-Key": key})
            with urllib.request.urlopen(request) as answer:  # noqa: S310 our own, on loopback
                if answer.status == 200:
                    return
        time.sleep(0.1)
    raise RuntimeError("the key does not work")


def session(number: int, uid: str) -> dict[str, Any]:
    """What the API creates."""
    stamp = json.dumps({"username": f"gatepass:key:{NAMESPACE}/ci", "uid": uid, "groups": []})
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "AccessSession",
        "metadata": {"name": f"bare-{number}", "finalizers": [FINALIZER], "annotations": {REQUESTED_BY: stamp}},
        "spec": {
            "resources": [{"name": "db", "namespace": NAMESPACE}],
            "duration": "1h",
            "source": {"request": {"addresses": [CALLER]}},
        },
    }


async def measure(sandbox: Sandbox, key: str, uid: str) -> list[Figure]:
    """All figures, one after the other; bare creates and POSTs take turns."""
    await config.load_kube_config(config_file=str(sandbox.operator_kubeconfig))
    url = f"http://127.0.0.1:{sandbox.env['GATEPASS_API_PORT']}"
    headers = {"X-API-Key": key, "X-Forwarded-For": CALLER}
    async with (
        ApiClient() as client,
        aiohttp.ClientSession(url, headers=headers, connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        objects = CustomObjectsApi(client)

        async def call(method: str, path: str, **more: Any) -> Any:
            async with http.request(method, f"/api/v1{path}", **more) as answer:
                told = await answer.text()
                if answer.status != 200:
                    raise RuntimeError(told)
                return json.loads(told)

        await call("POST", "/sessions", json={}, headers={"Prefer": "wait=30"})
        bare, by_http = [], []
        for number in range(ONES):
            body = session(number, uid)
            took, _ = await timed(
                lambda body=body: objects.create_namespaced_custom_object(GROUP, VERSION, NAMESPACE, PLURAL, body)
            )
            bare.append(took)
            await asyncio.sleep(_PAUSE)  # until Gatepass has opened it
            took, _ = await timed(lambda: call("POST", "/sessions", json={}))
            by_http.append(took)
            await asyncio.sleep(_PAUSE)
        for number in range(ONES, LISTED - ONES - 1):
            await objects.create_namespaced_custom_object(GROUP, VERSION, NAMESPACE, PLURAL, session(number, uid))
        for _ in range(300):
            found = await call("GET", "/sessions")
            if len(found) == LISTED:
                break
            await asyncio.sleep(0.1)  # until the watch has told of the last
        for each in found:
            await call("GET", f"/sessions/{each['id']}", headers={"Prefer": "wait=60"})
        lists, dumps = [], []
        for _ in range(20):
            took, text = await timed(lambda: _text(http, "/api/v1/sessions"))
            lists.append(took)
            listed = json.loads(text)
            started = time.perf_counter()
            json.dumps(listed, separators=(",", ":")).encode()
            dumps.append(time.perf_counter() - started)
        first = [await _first(sandbox, http) for _ in range(STARTS)]
        health, me = [], []
        for _ in range(300):
            health.append((await timed(lambda: call("GET", "/health")))[0])
            me.append((await timed(lambda: call("GET", "/auth/me")))[0])
        lasted = await asyncio.gather(*(timed(lambda: _life(call)) for _ in range(CLIENTS)))
    shares = [took for took, _ in lasted]
    p50 = percentile(by_http, 50)
    return [
        _figure("POST /sessions, p50, to a bare create", p50, percentile(bare, 50), 2.0),
        _figure(
            f"GET /sessions of {len(found)}, p50, to writing it as JSON",
            percentile(lists, 50),
            percentile(dumps, 50),
            3.0,
        ),
        _figure("the first of them after a start, p50", percentile(first, 50), percentile(dumps, 50), 3.0),
        Figure(
            "authentication by a key: /auth/me less /health, p50",
            _ms(percentile(me, 50) - percentile(health, 50)),
            "ms",
            bar=1.0,
        ),
        Figure(
            f"{CLIENTS} clients in parallel, the slowest to the fastest",
            round(max(shares) / min(shares), 2),
            "x",
            bar=2.0,
        ),
    ]


async def _first(sandbox: Sandbox, http: aiohttp.ClientSession) -> float:
    """How long the first list after a start takes, once it has looked at everything."""
    await asyncio.to_thread(sandbox.stop_operator)
    await asyncio.to_thread(sandbox.start_operator)
    await asyncio.sleep(_SETTLE)
    await _text(http, "/api/v1/auth/me")  # what the framework does at its first request is not about lists
    took, _ = await timed(lambda: _text(http, "/api/v1/sessions"))
    return took


async def _text(http: aiohttp.ClientSession, path: str) -> str:
    async with http.get(path) as answer:
        return await answer.text()


async def _life(call: Callable[..., Awaitable[Any]]) -> None:
    for _ in range(EACH):
        made = await call("POST", "/sessions", json={})
        await call("POST", f"/sessions/{made['id']}/stop")


def _figure(name: str, value: float, floor: float, bar: float) -> Figure:
    return Figure(name, _ms(value), "ms", _ms(floor), round(value / floor, 2), bar)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


def main() -> int:
    """Take the figures; the exit code is 1 for a missed bar."""
    with Sandbox(settings={"GATEPASS_RATE_LIMIT": "1000000"}) as sandbox:
        ec2 = ec2_client(sandbox, REGION)
        group = ec2.create_security_group(GroupName="bench", Description="bench")["GroupId"]
        ec2.close()
        with sandbox.control_plane.api() as api:
            key, uid = prepare(api, group)
        with observed(sandbox) as observer:
            known(sandbox, key)
            found = asyncio.run(measure(sandbox, key, uid))
            broken = breaches(observer)
    found.append(figure(broken))
    RESULTS.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
    return conclude("the REST API", found, broken, Console(width=140))


if __name__ == "__main__":
    sys.exit(main())
