"""What runners do: they start, claim their session, beat, and go; the observer is told when they do."""

import base64
import heapq
import http.client
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from gatepass.sandbox.kubeapi import KubeApiError
from tests.chaos.churn import PAUSE_SECONDS, Churn, is_gone, passes
from tests.chaos.script import WINDOW_SECONDS, Deed, Way
from tests.chaos.stage import Stage
from tests.e2e.pods import Pods
from tests.e2e.tenant import MERGE, SESSION, Tenant

_BEAT_SECONDS = 2.0
_AWAITED_SECONDS = 32.0
"""So long what Gatepass has not seen yet may be still to come: 30 s from its first look, and it looks once more."""
_JOBS, _LEASES = "/apis/batch/v1", "/apis/coordination.k8s.io/v1"
_JOB = {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "run", "image": "runner"}]}}}


class Runners(threading.Thread):
    """Does their deeds in their time; what does not succeed is tried again, and holds up nothing else."""

    def __init__(
        self, stage: Stage, tenants: Churn, namespace: str, deeds: list[Deed], over: Callable[[], bool]
    ) -> None:
        super().__init__(name="runners", daemon=True)
        self._stage, self._tenants, self._over = stage, tenants, over
        self._namespace = namespace
        self._begun: set[str] = set()
        self._silent: set[str] = set()
        self.undone = list(deeds)
        self.failures: list[str] = []

    def run(self) -> None:
        """All of them, or until it is over."""
        ways: dict[str, Callable[[Deed], float | None]] = {
            "pod": self._start_pod,
            "job": self._start_job,
            "claim": self._claim,
            "beat": self._beat,
            "silence": self._fall_silent,
            "end": self._end,
        }
        began = time.monotonic()
        with self._stage.sandbox.control_plane.api() as api:
            self._api, self._tenant = api, Tenant(api, self._namespace)
            self._pods = Pods(self._tenant)
            while self.undone and not self._over():
                deed = self.undone[0]
                if (ahead := began + deed.at - time.monotonic()) > 0:
                    time.sleep(min(ahead, 0.1))
                    continue
                pause = self._try(deed, ways[deed.what])
                heapq.heappop(self.undone)
                if pause is not None:
                    heapq.heappush(self.undone, replace(deed, at=time.monotonic() - began + pause))

    def _try(self, deed: Deed, do: Callable[[Deed], float | None]) -> float | None:
        """Do it; answers in how many seconds again, None for never."""
        try:
            return do(deed)
        except KubeApiError as error:
            if not passes(error):
                self.failures.append(f"{deed.what} {deed.session}: {error}")
                return None
        except (OSError, http.client.HTTPException):
            pass
        return PAUSE_SECONDS

    def _start_pod(self, deed: Deed) -> None:
        """It is created, scheduled, and runs."""
        way: Way = deed.how["way"]
        _once(lambda: self._pods.pending(deed.session))
        _once(lambda: self._pods.schedule(way.node, deed.session))
        self._pods.start(way.host, way.ip, name=deed.session)
        self._begun.add(deed.session)

    def _start_job(self, deed: Deed) -> None:
        body = {"metadata": {"name": deed.session}, "spec": _JOB}
        _once(lambda: self._api.request("POST", self._path(_JOBS, "jobs"), body))
        self._begun.add(deed.session)

    def _claim(self, deed: Deed) -> float | None:
        session = self._session(deed)
        status = (session or {}).get("status", {})
        if session is None or "endedAt" in status or "startedAt" in status:
            return None
        if "claim" not in status:
            return PAUSE_SECONDS
        secret = self._tenant.get_secret(status["claim"]["secretName"])
        token = base64.b64decode(secret["data"]["token"]).decode()
        told, message = self._stage.post(
            f"/api/v1/sessions/{session['metadata']['uid']}/claim", token, deed.how["address"]
        )
        if told == HTTPStatus.OK:
            return None
        if "claimed from another address" in message:
            self.failures.append(f"claim {deed.session}: {message}")
            return None
        return PAUSE_SECONDS

    def _beat(self, deed: Deed) -> float | None:
        if deed.session in self._silent:
            return None
        session = self._session(deed)
        if session is None or "endedAt" in session.get("status", {}):
            return None
        lease = session.get("status", {}).get("heartbeat", {}).get("leaseName")
        if lease is None:
            return PAUSE_SECONDS
        renewed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self._api.request("PATCH", self._path(_LEASES, "leases", lease), {"spec": {"renewTime": renewed}}, MERGE)
        return _BEAT_SECONDS

    def _fall_silent(self, deed: Deed) -> float | None:
        self._silent.add(deed.session)
        return self._lose(deed, WINDOW_SECONDS)

    def _end(self, deed: Deed) -> float | None:
        """It may be over from before the call on, and is when that has succeeded."""
        if deed.session not in self._begun:
            return PAUSE_SECONDS
        if (pause := self._lose(deed, math.inf)) is not None:
            return pause
        seen = "boundTo" in (self._session(deed) or {}).get("status", {})
        pod, farewell = deed.how["of"] == "pod", deed.how["farewell"]
        base, plural = ("/api/v1", "pods") if pod else (_JOBS, "jobs")
        path = self._path(base, plural, deed.session)
        if farewell == "deleted":
            try:
                self._api.request("DELETE", f"{path}?gracePeriodSeconds=0&propagationPolicy=Background")
            except KubeApiError as error:
                if not is_gone(error, plural):
                    raise
        elif pod:
            self._pods.set_status(deed.session, phase="Succeeded" if farewell == "finished" else "Failed")
        else:
            self._say_of_job(path, "Complete" if farewell == "finished" else "Failed")
        return self._lose(deed, 0.0 if seen or farewell != "deleted" else _AWAITED_SECONDS)

    def _say_of_job(self, path: str, how: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        first = {"type": "SuccessCriteriaMet" if how == "Complete" else "FailureTarget", "status": "True"}
        status: dict[str, Any] = {"startTime": now, "conditions": [first, {"type": how, "status": "True"}]}
        if how == "Complete":
            status["completionTime"] = now
        try:
            self._api.request("PATCH", f"{path}/status", {"status": status}, MERGE)
        except KubeApiError:  # said already, and the answer was lost
            done = self._api.request("GET", path).get("status", {}).get("conditions", ())
            if all(each["type"] != how for each in done):
                raise

    def _lose(self, deed: Deed, seconds: float) -> float | None:
        uid = self._tenants.uids.get(deed.session)
        if uid is not None:
            self._stage.observer.runner_lost(uid, seconds)
            return None
        return PAUSE_SECONDS if self._tenants.is_alive() else None

    def _session(self, deed: Deed) -> dict[str, Any] | None:
        """As it is; None when it is gone. Not made yet it is tried again."""
        try:
            return self._tenant.get(SESSION, deed.session)
        except KubeApiError as error:
            if not is_gone(error, "accesssessions.gatepass.dev"):
                raise
        if deed.session in self._tenants.uids or not self._tenants.is_alive():
            return None
        raise ConnectionError(f"{deed.session} is not there yet")

    def _path(self, group: str, plural: str, name: str = "") -> str:
        return f"{group}/namespaces/{self._namespace}/{plural}" + (f"/{name}" if name else "")


def _once(create: Callable[[], object]) -> None:
    """The answer may have been lost, and what is created is there then."""
    try:
        create()
    except KubeApiError as error:
        if error.status != HTTPStatus.CONFLICT:
            raise
