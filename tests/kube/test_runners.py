"""What sessions are bound to is followed on a real API server, whatever happens to the watch."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, cast

import pytest

from gatepass.core.owners import Kind
from gatepass.core.ports import ClusterError
from gatepass.core.types.common import Key
from gatepass.core.types.ends import SESSION_LABEL, lease_name
from gatepass.core.types.session import AccessSession, EndedReason
from gatepass.engine.ends import Ends
from gatepass.engine.state import State
from gatepass.engine.store import Store
from gatepass.kube.api import KubeApi
from gatepass.kube.clock import CorrectedClock
from gatepass.kube.runners import MOST_KINDS, Runners
from gatepass.sandbox.environment import Sandbox
from gatepass.sandbox.kubeapi import KubeApi as Admin
from tests.core.builders import a_session
from tests.e2e.tenant import wait_for
from tests.engine.world import BIG_BANG, OWNER, LoopClock, eventually
from tests.kube.conftest import client_of
from tests.kube.wire import wire_to

JOBS, PODS, MAPS = "/apis/batch/v1/namespaces/{}/jobs", "/api/v1/namespaces/{}/pods", "/api/v1/namespaces/{}/configmaps"
MERGE = "application/merge-patch+json"
PODSPEC = {"restartPolicy": "Never", "containers": [{"name": "run", "image": "runner"}]}
JOB_IT = {"apiVersion": "batch/v1", "kind": "Job", "name": "it"}
_numbers = count(1)


class Followed:
    """The ends of sessions in a namespace of their own, followed."""

    def __init__(self, admin: Admin) -> None:
        self.admin = admin
        self.namespace = f"runners-{next(_numbers)}"
        admin.request("POST", "/api/v1/namespaces", {"metadata": {"name": self.namespace}})
        wait_for(lambda: admin.healthy(f"/api/v1/namespaces/{self.namespace}/serviceaccounts/default"), "its account")
        self.touched: list[Key] = []
        self.state = State(Store(), OWNER, 0.0, BIG_BANG)
        self.ends = Ends(self.state, LoopClock(), self.touched.append)
        self.sessions: list[AccessSession] = []

    def bound(self, kind: str, name: str = "it", api_version: str = "batch/v1") -> AccessSession:
        """A live session that is bound to an object."""
        to = {"apiVersion": api_version, "kind": kind, "name": name}
        session = a_session(f"s-{next(_numbers)}", namespace=self.namespace, boundTo=to)
        self.sessions.append(session)
        self.ends.look(session)
        return session

    def sees(self, session: AccessSession) -> str | None:
        """Which object it is bound to."""
        self.ends.look(session)
        found = self.ends.view(session).bound_to
        return found and found.uid

    def over(self, session: AccessSession) -> bool:
        """Has it lost its runner?"""
        self.ends.look(session)
        return self.state.runners.get(session.uid) is EndedReason.OWNER_FINISHED

    def refused(self, session: AccessSession) -> str | None:
        """Why it is not followed."""
        found = self.ends.view(session).unfollowed
        return found and found.reason

    def make(self, path: str, name: str = "it", **body: Any) -> str:
        """Create an object; answers its uid."""
        made = self.admin.request("POST", path.format(self.namespace), {"metadata": {"name": name}, **body})
        return str(made["metadata"]["uid"])

    def status(self, path: str, name: str = "it", **status: Any) -> None:
        """What it says of itself."""
        self.admin.request("PATCH", f"{path.format(self.namespace)}/{name}/status", {"status": status}, MERGE)

    def delete(self, path: str, name: str = "it") -> None:
        """Delete it at once."""
        self.admin.request("DELETE", f"{path.format(self.namespace)}/{name}?gracePeriodSeconds=0")


@asynccontextmanager
async def following(api: KubeApi, followed: Followed, **given: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(Runners(api, followed.ends, [], **given).run())
    yield
    assert not task.done(), "it goes on until it is cancelled"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def followed(sandbox: Sandbox) -> Iterator[Followed]:
    with sandbox.control_plane.api() as admin:
        yield Followed(admin)


def requests(sandbox: Sandbox, verb: str, resource: str) -> int:
    """How often somebody asked for this, but for the controllers, which look through every namespace that goes."""
    lines = sandbox.control_plane.audit_log.read_text().splitlines()
    lines = [line for line in lines if '"stage":"ResponseComplete"' in line and "kube-controller-manager" not in line]
    return sum(f'"verb":"{verb}"' in line and f'"objectRef":{{"resource":"{resource}"' in line for line in lines)


async def test_a_pod_that_is_there_finishes(followed: Followed, api: KubeApi) -> None:
    uid = followed.make(PODS, spec=PODSPEC)
    session = followed.bound("Pod", api_version="v1")
    async with following(api, followed):
        await eventually(lambda: followed.sees(session) == uid, "the pod is seen")
        followed.status(PODS, phase="Running")
        followed.status(PODS, phase="Succeeded")
        await eventually(lambda: followed.over(session), "the end")


async def test_an_object_without_a_status_comes_later_and_goes(followed: Followed, api: KubeApi) -> None:
    session = followed.bound("ConfigMap", api_version="v1")
    async with following(api, followed):
        uid = followed.make(MAPS)
        await eventually(lambda: followed.sees(session) == uid, "it is seen")
        assert session.key in followed.touched
        followed.delete(MAPS)
        await eventually(lambda: followed.over(session), "the end")


async def test_what_never_comes_is_missed_by_a_fresh_listing(
    sandbox: Sandbox, followed: Followed, api: KubeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatepass.engine.ends.MISSING_SECONDS", 1.0)
    before = requests(sandbox, "list", "jobs")
    session, there = followed.bound("Job", "never"), followed.bound("Job")
    uid = followed.make(JOBS, spec={"template": {"spec": PODSPEC}})
    async with following(api, followed):
        await eventually(lambda: followed.over(session), "the end")
        assert followed.sees(there) == uid
        assert not followed.over(there)
        await eventually(lambda: requests(sandbox, "list", "jobs") >= before + 2, "it was listed once more")


async def test_one_watch_for_each_kind_that_is_in_use(sandbox: Sandbox, followed: Followed, api: KubeApi) -> None:
    before = requests(sandbox, "watch", "replicationcontrollers"), requests(sandbox, "list", "replicationcontrollers")
    path = "/api/v1/namespaces/{}/replicationcontrollers"
    spec = {
        "replicas": 0,
        "selector": {"a": "b"},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": PODSPEC["containers"]}},
    }
    for number in range(5):
        followed.make(path, f"it-{number}", spec=spec)
    async with following(api, followed, linger_seconds=0.2):
        for number in range(5):
            session = followed.bound("ReplicationController", f"it-{number}", api_version="v1")
            await eventually(lambda session=session: followed.sees(session), "it is seen")
        for session in followed.sessions:
            followed.ends.forget(session)
        assert followed.ends.kinds == frozenset()
        await eventually(
            lambda: requests(sandbox, "watch", "replicationcontrollers") == before[0] + 1, "the watch has ended"
        )
        assert requests(sandbox, "list", "replicationcontrollers") == before[1] + 1
        again = followed.bound("ReplicationController", "it-0", api_version="v1")
        await eventually(lambda: followed.sees(again), "it is followed again")


async def test_a_definition_that_is_installed_later_is_found(followed: Followed, api: KubeApi) -> None:
    group = f"late{next(_numbers)}.example.com"
    session = followed.bound("Build", api_version=f"{group}/v1")
    async with following(api, followed):
        await eventually(lambda: followed.refused(session) == "OwnerKindNotFound", "it says that there is none")
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
        names = {"plural": "builds", "singular": "build", "kind": "Build"}
        spec = {"group": group, "scope": "Namespaced", "names": names, "versions": [version]}
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        followed.admin.request("POST", path, {"metadata": {"name": f"builds.{group}"}, "spec": spec})
        await eventually(lambda: followed.refused(session) is None, "it is followed")
        objects = f"/apis/{group}/v1/namespaces/{{}}/builds"
        uid = followed.make(objects, apiVersion=f"{group}/v1", kind="Build")
        await eventually(lambda: followed.sees(session) == uid, "it is seen")
        done = {"conditions": [{"type": "Succeeded", "status": "False"}]}
        followed.admin.request("PATCH", f"{objects.format(followed.namespace)}/it", {"status": done}, MERGE)
        await eventually(lambda: followed.over(session), "the end")
        followed.admin.request("DELETE", f"{path}/builds.{group}")


@pytest.mark.parametrize(("kind", "reason"), [("Nothing", "OwnerKindNotFound"), ("Namespace", "OwnerKindNotFound")])
async def test_what_is_no_kind_of_a_namespace_is_said(followed: Followed, api: KubeApi, kind: str, reason: str) -> None:
    session = followed.bound(kind, api_version="v1")
    async with following(api, followed):
        await eventually(lambda: followed.refused(session) == reason, "it says so")
        assert not followed.over(session)


async def test_what_gatepass_may_not_watch_is_said(sandbox: Sandbox, followed: Followed) -> None:
    session = followed.bound("Secret", api_version="v1")
    token = sandbox.control_plane.account_token("gatepass-system", "gatepass")
    async with (
        client_of(sandbox, sandbox.control_plane.server, token) as client,
        following(KubeApi(client, CorrectedClock()), followed),
    ):
        await eventually(lambda: followed.refused(session) == "OwnerForbidden", "it says so")
        assert not followed.over(session)


async def test_what_is_refused_takes_nobodys_place(
    sandbox: Sandbox, followed: Followed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatepass.kube.runners.MOST_KINDS", 1)
    uid = followed.make(PODS, spec=PODSPEC)
    missing = [
        *(followed.bound("Build", api_version=f"none{number}.example.com/v1") for number in range(3)),
        *(followed.bound(f"Job{number}") for number in range(3)),
        followed.bound("Job", api_version="v2"),
    ]
    forbidden = [followed.bound(kind, api_version="v1") for kind in ("Secret", "ServiceAccount")]
    token = sandbox.control_plane.account_token("gatepass-system", "gatepass")
    async with (
        client_of(sandbox, sandbox.control_plane.server, token) as client,
        following(KubeApi(client, CorrectedClock()), followed),
    ):
        await eventually(
            lambda: all(followed.refused(each) == "OwnerKindNotFound" for each in missing), "none is there"
        )
        await eventually(lambda: all(followed.refused(each) == "OwnerForbidden" for each in forbidden), "nor allowed")
        session = followed.bound("Pod", api_version="v1")
        await eventually(lambda: followed.sees(session) == uid, "the pod is seen")
        another = followed.bound("Job")
        await eventually(lambda: followed.refused(another) == "TooManyKinds", "the one place is taken")
        followed.delete(PODS)
        await eventually(lambda: followed.over(session), "the end")


async def test_a_silent_watch_is_begun_anew_and_nothing_is_lost(sandbox: Sandbox, followed: Followed) -> None:
    wire = wire_to(sandbox)
    followed.make(PODS, "stays", spec=PODSPEC)
    followed.make(PODS, "goes", spec=PODSPEC)
    async with wire.up(), client_of(sandbox, f"https://127.0.0.1:{wire.port}") as client:
        stays, goes = (followed.bound("Pod", name, api_version="v1") for name in ("stays", "goes"))
        async with following(KubeApi(client, CorrectedClock()), followed, silent_seconds=1.5):
            await eventually(lambda: followed.sees(stays) and followed.sees(goes), "both are seen")
            wire.silence()
            followed.delete(PODS, "goes")
            await eventually(lambda: followed.over(goes), "the end is found")
            assert not followed.over(stays)


async def test_leases_of_hearts(followed: Followed, api: KubeApi) -> None:
    leases = "/apis/coordination.k8s.io/v1/namespaces/{}/leases"
    session = a_session("beats", namespace=followed.namespace, heartbeat={"interval": "5s", "missed": 2})
    followed.ends.look(session)
    name = lease_name(session.uid)
    async with following(api, followed):
        labels = {SESSION_LABEL: session.uid}
        followed.admin.request(
            "POST", leases.format(followed.namespace), {"metadata": {"name": name, "labels": labels}}
        )
        await eventually(lambda: not followed.ends.unleased(session), "the Lease is seen")
        path = f"{leases.format(followed.namespace)}/{name}"
        renewed = {"spec": {"renewTime": "2001-01-01T00:00:00.000000Z"}}  # the runner's clock may be wrong
        followed.admin.request("PATCH", path, renewed, MERGE)
        await eventually(lambda: beats(followed, session), "a beat is heard")
        followed.admin.request("DELETE", path)
        await eventually(lambda: followed.ends.unleased(session), "its end is seen")


def beats(followed: Followed, session: AccessSession) -> object:
    heartbeat = followed.ends.view(session).heartbeat
    return heartbeat and heartbeat.last_seen_at


async def test_a_kind_of_a_defect_ends_the_operator(followed: Followed, api: KubeApi) -> None:
    class Broken(Ends):
        def listed(self, kind: Kind, objects: Any, began: float) -> None:
            raise ZeroDivisionError

    ends = Broken(followed.state, LoopClock(), followed.touched.append)
    ends.look(followed.bound("Pod", api_version="v1"))
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(30):
            await Runners(api, ends, []).run()


class Away:
    """An API server that answers nobody, until it is there again: it has Jobs in each group, and no objects."""

    def __init__(self, *versions: str) -> None:
        self.there = False
        self.asked: list[str] = []
        self.listed: list[str] = []
        self._versions = versions

    async def answer(self, _method: str, path: str) -> dict[str, Any]:
        self.asked.append(path)
        if not self.there:
            raise ClusterError("it cannot be reached")
        if path == "/api":
            return {"versions": ["v1"]}
        if path == "/apis":
            return {"groups": [{"versions": [{"groupVersion": version}]} for version in self._versions]}
        return {"resources": [{"kind": "Job", "name": "jobs", "namespaced": True}]}

    async def pages(self, path: str, _query: Any, **_how: str) -> AsyncIterator[dict[str, Any]]:
        self.listed.append(path)
        yield {"metadata": {"resourceVersion": "1"}, "items": []}

    async def watch(self, *_what: Any, **_how: Any) -> AsyncIterator[dict[str, Any]]:
        await asyncio.Event().wait()
        yield {}


@pytest.mark.looptime
async def test_a_long_outage_holds_nobody_up_after_its_end() -> None:
    state = State(Store(), OWNER, 0.0, BIG_BANG)
    ends = Ends(state, LoopClock(), lambda _key: None)
    session = a_session("s-away", status={"boundTo": {"uid": "uid-1"}}, boundTo=JOB_IT)
    ends.look(session)
    api = Away("batch/v1")
    task = asyncio.create_task(Runners(cast("KubeApi", api), ends, []).run())
    await asyncio.sleep(60.2)
    api.there = True
    await asyncio.sleep(1.1)
    ends.look(session)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert state.runners == {session.uid: EndedReason.OWNER_FINISHED}, "it was gone when it was listed"


@pytest.mark.looptime
async def test_a_kind_that_was_one_too_many_is_followed_once_another_is_unused() -> None:
    ends = Ends(State(Store(), OWNER, 0.0, BIG_BANG), LoopClock(), lambda _key: None)
    versions = [f"g{number:02}/v1" for number in range(MOST_KINDS + 1)]
    bound = [a_session(f"s-{each[:3]}", boundTo={**JOB_IT, "apiVersion": each}) for each in versions]
    api = Away(*versions)
    api.there = True
    for session in bound:
        ends.look(session)
    task = asyncio.create_task(Runners(cast("KubeApi", api), ends, [], linger_seconds=0).run())
    await asyncio.sleep(1)
    assert f"/apis/{versions[-1]}/jobs" not in api.listed
    assert [ends.view(each).unfollowed is None for each in bound] == [True] * MOST_KINDS + [False]
    ends.forget(bound[0])
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert f"/apis/{versions[-1]}/jobs" in api.listed
    assert ends.view(bound[-1]).unfollowed is None


@pytest.mark.looptime
async def test_a_thousand_invented_kinds_are_no_burden() -> None:
    ends = Ends(State(Store(), OWNER, 0.0, BIG_BANG), LoopClock(), lambda _key: None)
    invented = [
        *({**JOB_IT, "apiVersion": f"g{number:03}/v1"} for number in range(400)),
        *({**JOB_IT, "apiVersion": f"v{number + 2}"} for number in range(200)),
        *({**JOB_IT, "kind": f"Job{number:03}"} for number in range(400)),
    ]
    bound = [a_session(f"s-{number:03}", boundTo=to) for number, to in enumerate((*invented, JOB_IT))]
    for session in bound:
        ends.look(session)
    api = Away("batch/v1")
    task = asyncio.create_task(Runners(cast("KubeApi", api), ends, []).run())
    await asyncio.sleep(10)
    assert len(api.asked) <= 2 * 100, "who is away is asked by one for all"
    api.there, before = True, len(api.asked)
    await asyncio.sleep(1)
    assert api.listed == ["/apis/batch/v1/jobs"]
    assert [found.reason if (found := ends.view(each).unfollowed) else "" for each in bound] == [
        *("OwnerKindNotFound" for _ in invented),
        "",
    ]
    await asyncio.sleep(59)
    assert len(api.asked) - before <= 3 * 60
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
