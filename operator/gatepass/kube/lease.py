"""Leader election by a Lease: of several replicas one works, and it knows how long it still may.

Only this process's own clock counts. Ours ends one duration after the last renewal that succeeded was *sent*; another's
one duration after it was last *seen* to change. So nobody begins before the other has had to stop, however far their
clocks are apart. The times in the object are for people, and tell later which renewal was a leader's last.
"""

import asyncio
import contextlib
import hashlib
import math
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import structlog

from gatepass.core.leadership import Leadership
from gatepass.core.ports import ClusterError, ConflictError, GoneError
from gatepass.kube.api import MERGE_PATCH, KubeApi

log = structlog.get_logger(__name__)

_RENEW_DEADLINE: Final = 2 / 3
_RETRY: Final = 2 / 15
"""Of the duration, as in client-go, whose defaults are 15 s, 10 s and 2 s."""
EARLIER: Final = "gatepass.dev/earlier-leaders"
"""Annotation: who has led before, each with its last renewal, the latest last."""
_MOST_EARLIER: Final = 1000
"""Some 60 bytes each, of the 256 KB that annotations may have: years of leaders."""
_MICRO_TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"
_TICK: Final = timedelta(milliseconds=1)
"""Renewals are told in order, also when the clock goes back."""
_AT_ONCE_SECONDS: Final = 2.0
_LOOKS: Final = 4
"""How much oftener than it is renewed a lease is looked at, as what is seen late is taken over late, or tried again."""


def _moment(text: str) -> datetime:
    return datetime.strptime(text, _MICRO_TIME).replace(tzinfo=UTC)


class LeaseLostError(Exception):
    """Somebody else leads, or may in a moment: end the process, and have it started again."""


def monotonic() -> float:
    """Seconds that never jump, and on Linux go on while the machine sleeps, as everybody else's do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def identity(host: str, port: int) -> str:
    """A name that only one running process can have, and that its successor after a crash has too.

    Whoever listens on this address is alone with it in its network namespace, and a container that is started again
    finds its pod's namespace as it was. So it need not wait for its predecessor's lease to end.
    """
    try:
        namespace = Path("/proc/self/ns/net").readlink()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return f"{socket.gethostname()}_{secrets.token_hex(6)}"
    unique = f"{boot} {namespace} {host} {port or secrets.token_hex(6)}"  # port 0 is anybody's
    return f"{socket.gethostname()}_{hashlib.sha256(unique.encode()).hexdigest()[:12]}"


class Lease:
    """One Lease, wanted by one process. `now` is UTC, as the API server tells it.

    `looked` is set when it is known for the first time whether the lease is free, `taken` when it is ours.
    `duration` is in seconds; a renewal is sent every 2/15 of it, four times as often while that fails, and the lease
    given up after 2/3 of it without one. `leadership` is what it tells of who leads and has led.
    """

    def __init__(
        self,
        api: KubeApi,
        namespace: str,
        name: str,
        identity: str,
        duration: float,
        now: Callable[[], datetime],
        seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._api = api
        self._name = name
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{quote(namespace, safe='')}/leases"
        self._path = f"{self._collection}/{quote(name, safe='')}"
        self._identity = identity
        self._duration = duration
        self._now = now
        self._seconds = seconds
        self.leadership = Leadership(identity)
        self._lease: dict[str, Any] = {}
        self._seen_at = -math.inf
        self._ends_at = -math.inf
        self._asked_at: float | None = None
        self._steady_since = -math.inf
        self.looked = asyncio.Event()
        self.taken = asyncio.Event()

    def outlasts(self, seconds: float) -> bool:
        """Is it ours, and will it be in so many seconds? Any thread may ask."""
        return self._seconds() + seconds < self._ends_at

    def steady_for(self) -> float:
        """For so many seconds the API server has answered each renewal, and at once: 0 while it does not."""
        now = self._seconds()
        if self._asked_at is not None and now > self._asked_at + _AT_ONCE_SECONDS:
            self._steady_since = now
        return now - self._steady_since

    async def run(self) -> None:
        """Take the lease when it is free and keep it; raises LeaseLostError when it could not be kept."""
        while not await self._taken():
            self.looked.set()
            await asyncio.sleep(self._pause())
        log.info("leading", lease=self._name, identity=self._identity)
        self.taken.set()
        self.looked.set()
        renewed = True
        while True:
            await asyncio.sleep(self._until(_RETRY) if renewed else self._duration * _RETRY / _LOOKS)
            self._asked_at = self._asked_at or self._seconds()
            if renewed := await self._renew():
                self.steady_for()  # the last look at how long that has taken
                self._asked_at = None

    async def release(self) -> None:
        """Let somebody else lead at once. Call it when nothing of ours is under way any more."""
        if not self.outlasts(0.0):
            return
        self._ends_at = -math.inf
        self.leadership.remember(self._identity, self.leadership.renewed_at)
        gone = {**self._spec(), "holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            try:
                await self._write(gone)
            except ConflictError:  # a renewal had its effect and was not answered any more
                self._saw(await self._read())
                if self._holder == self._identity:
                    await self._write(gone)
        except (ClusterError, GoneError) as error:
            log.warning("cannot release the lease", error=str(error))

    # taking

    async def _taken(self) -> bool:
        try:
            await self._take()
        except ConflictError:
            return False  # somebody was faster
        except (ClusterError, GoneError) as error:
            log.warning("cannot take the lease yet", error=str(error))
            await asyncio.sleep(self._duration * _RETRY)
            return False
        return self._holder == self._identity

    async def _take(self) -> None:
        try:
            self._saw(await self._read())
        except GoneError:
            await self._create()
            return
        if not self._holder or self._holder == self._identity or self._seconds() >= self._free_at:
            await self._hold()

    def _saw(self, lease: dict[str, Any]) -> None:
        if lease["metadata"]["resourceVersion"] != self._lease.get("metadata", {}).get("resourceVersion"):
            self._seen_at = self._seconds()
        self._lease = lease
        self._remember(lease)

    def _remember(self, lease: dict[str, Any]) -> None:
        for each in lease["metadata"].get("annotations", {}).get(EARLIER, "").split():
            leader, _, at = each.rpartition("=")
            self._led(leader, at)
        if self._holder not in ("", self._identity):
            self._led(self._holder, lease["spec"].get("renewTime", ""))

    def _led(self, leader: str, at: str) -> None:
        with contextlib.suppress(ValueError):  # somebody has edited it
            self.leadership.remember(leader, _moment(at))

    @property
    def _holder(self) -> str:
        return str(self._lease.get("spec", {}).get("holderIdentity") or "")

    @property
    def _free_at(self) -> float:
        return self._seen_at + float(self._lease.get("spec", {}).get("leaseDurationSeconds") or self._duration)

    def _pause(self) -> float:
        """Until the next look: not much later than the lease may be released, and when it ends."""
        return min(self._duration * _RETRY / _LOOKS, max(self._free_at - self._seconds(), 0.0) or math.inf)

    # keeping

    def _until(self, share: float) -> float:
        """Seconds until this share of the duration has passed since the last renewal was sent, as the lease counts."""
        return max(self._ends_at - self._duration * (1 - share) - self._seconds(), 0.0)

    async def _renew(self) -> bool:
        try:
            async with asyncio.timeout(self._until(_RENEW_DEADLINE)):
                await self._keep()
        except TimeoutError:
            self._lost("it could not be renewed in time")
        except (ClusterError, GoneError) as error:
            log.warning("cannot renew the lease", error=str(error))
            self._asked_at = -math.inf  # from now on it is known that nobody answers
            return False
        return True

    async def _keep(self) -> None:
        await asyncio.sleep(0)  # here the timeout ends it that was over before it began: we were paused
        try:
            await self._hold()
        except (ConflictError, GoneError):
            # Somebody has written it, or removed it; or we have, and were not answered.
            await self._take()
            if self._holder != self._identity:
                self._lost(f"{self._holder} has it")

    def _lost(self, why: str) -> None:
        self._ends_at = -math.inf
        raise LeaseLostError(f"the lease {self._name} is lost: {why}")

    # calls

    async def _read(self) -> dict[str, Any]:
        return await self._api.call("GET", self._path, timeout=self._patience)

    async def _hold(self) -> None:
        sent = self._seconds()
        self._renewed(await self._write(self._spec()), sent)

    def _renewed(self, lease: dict[str, Any], sent: float) -> None:
        self._lease = lease
        self._ends_at = sent + self._duration
        self.leadership.renewed_at = _moment(lease["spec"]["renewTime"])

    async def _create(self) -> None:
        sent = self._seconds()
        body = {"metadata": {"name": self._name, **self._annotations({})}, "spec": self._spec()}
        self._renewed(await self._api.call("POST", self._collection, body, timeout=self._patience), sent)

    async def _write(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Change it, if nobody else has since it was last seen; raises ConflictError otherwise."""
        version = self._lease["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version, **self._annotations(self._lease)}, "spec": spec}
        return await self._api.call("PATCH", self._path, body, content_type=MERGE_PATCH, timeout=self._patience)

    def _annotations(self, lease: Mapping[str, Any]) -> dict[str, Any]:
        """What the lease does not say yet."""
        earlier = sorted(self.leadership.earlier.items(), key=lambda each: (each[1], each[0]))[-_MOST_EARLIER:]
        text = " ".join(f"{leader}={renewed_at.strftime(_MICRO_TIME)}" for leader, renewed_at in earlier)
        before = lease.get("metadata", {}).get("annotations", {}).get(EARLIER, "")
        return {} if text == before else {"annotations": {EARLIER: text}}

    def _spec(self) -> dict[str, Any]:
        now = self._next_renewal().strftime(_MICRO_TIME)
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": math.ceil(self._duration),
            "renewTime": now,
        }
        if self._holder != self._identity:
            transitions = self._lease.get("spec", {}).get("leaseTransitions") or 0
            spec |= {"acquireTime": now, "leaseTransitions": transitions + 1 if self._lease else 0}
        return spec

    def _next_renewal(self) -> datetime:
        with contextlib.suppress(ValueError):
            return max(self._now(), _moment(self._lease.get("spec", {}).get("renewTime") or "") + _TICK)
        return self._now()

    @property
    def _patience(self) -> float:
        """Of one call: half of the renew deadline, so that there is a second try."""
        return self._duration * _RENEW_DEADLINE / 2
