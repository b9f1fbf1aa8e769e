"""Leases on the real API server. Durations are short, and nothing is asserted about how long anything takes."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from gatepass.core.leadership import ANYBODY
from gatepass.core.ports import ClusterError, GoneError
from gatepass.kube.api import MERGE_PATCH, KubeApi
from gatepass.kube.lease import EARLIER, Lease, LeaseLostError, identity, monotonic
from tests.kube.conftest import Wire

SECONDS = 6.0
PATIENCE_SECONDS = 30.0
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
_numbers = count(1)


@pytest.fixture
def name() -> str:
    """A lease of its own for each test."""
    return f"test-{next(_numbers)}"


def candidate(api: KubeApi, name: str, who: str, seconds: Callable[[], float] = monotonic) -> Lease:
    return Lease(api, "default", name, who, SECONDS, utc_now, seconds)


def utc_now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def running(lease: Lease) -> AsyncIterator[asyncio.Task[None]]:
    """While it runs; at the end it is killed, and not released."""
    task = asyncio.create_task(lease.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def taken(lease: Lease) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await lease.taken.wait()


async def lost(task: asyncio.Task[None]) -> str:
    """What is said when it is lost."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(LeaseLostError) as raised:
            await task
    return str(raised.value)


async def spec_of(api: KubeApi, name: str) -> dict[str, Any]:
    """What the lease says; nothing when there is none."""
    try:
        return dict((await api.call("GET", f"{LEASES}/{name}"))["spec"])
    except GoneError:
        return {}


async def write(api: KubeApi, name: str, **spec: Any) -> None:
    """Somebody else writes to the lease."""
    await api.call("PATCH", f"{LEASES}/{name}", {"spec": spec}, content_type=MERGE_PATCH)


async def renewed(api: KubeApi, name: str, times: int) -> None:
    """Return when the lease has been renewed so often."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        before = (await spec_of(api, name)).get("renewTime")
        while times:
            await asyncio.sleep(0.05)
            now = (await spec_of(api, name)).get("renewTime")
            times, before = times - (now != before), now


async def test_one_of_two_takes_it_and_keeps_it(api: KubeApi, name: str) -> None:
    first, second = candidate(api, name, "first"), candidate(api, name, "second")
    async with running(first):
        await taken(first)
        async with running(second):
            await second.looked.wait()
            await renewed(api, name, 10)  # for longer than it lasts
            assert not second.taken.is_set()
        assert first.outlasts(0.0)
        assert not first.outlasts(SECONDS)
        assert not second.outlasts(0.0)
    spec = await spec_of(api, name)
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("first", SECONDS, 0)


async def test_a_release_hands_it_over(api: KubeApi, name: str) -> None:
    first, second = candidate(api, name, "first"), candidate(api, name, "second")
    async with running(first):
        await taken(first)
    async with running(second):
        await second.looked.wait()
        assert not second.taken.is_set()
        await first.release()
        assert not first.outlasts(0.0)
        await taken(second)
    assert (await spec_of(api, name))["leaseTransitions"] == 1


async def test_who_has_led_before_is_on_record_with_the_last_renewal(api: KubeApi, name: str) -> None:
    """Also of those who died, and of who led before them; and of one process that has led twice the later one."""
    first, second, third = (candidate(api, name, who) for who in ("first", "second", "third"))
    async with running(first):
        await taken(first)
        await renewed(api, name, 2)
    last = datetime.fromisoformat((await spec_of(api, name))["renewTime"])
    assert first.leadership.made(first.leadership.maker)
    async with running(second):
        await taken(second)
        assert second.leadership.earlier == {"first": last}
        assert second.leadership.made(first.leadership.maker)
        second.leadership.remember(ANYBODY, last)
    await second.release()
    async with running(third):
        await taken(third)
    assert third.leadership.earlier == {"first": last, ANYBODY: last, "second": second.leadership.renewed_at}
    await third.release()
    again = candidate(api, name, "first")
    async with running(again):
        await taken(again)
    await again.release()
    assert set(again.leadership.earlier) == {"first", "second", "third", ANYBODY}
    assert again.leadership.earlier["first"] == again.leadership.renewed_at > last


async def test_renewals_are_in_order_although_the_clock_goes_back(api: KubeApi, name: str) -> None:
    """A rule bears the last one: what was made before the clock went back is not younger than its maker."""
    now = utc_now()
    first = Lease(api, "default", name, "first", SECONDS, lambda: now)
    async with running(first):
        await taken(first)
        await renewed(api, name, 1)
        before = first.leadership.maker
        now -= timedelta(minutes=5)
        await renewed(api, name, 2)
    second = candidate(api, name, "second")
    async with running(second):
        await taken(second)
    assert second.leadership.made(before)
    assert second.leadership.made(first.leadership.maker)


async def test_a_record_that_somebody_has_edited_keeps_nobody_from_leading(api: KubeApi, name: str) -> None:
    record = "nonsense first=yesterday =2026-11-22T12:00:00.000000Z second=2026-11-22T12:00:00.000000Z"
    body = {"metadata": {"name": name, "annotations": {EARLIER: record}}, "spec": {}}
    await api.call("POST", LEASES, body)
    lease = candidate(api, name, "ours")
    async with running(lease):
        await taken(lease)
    assert lease.leadership.earlier["second"] == datetime(2026, 11, 22, 12, tzinfo=UTC)


async def test_a_dead_holder_is_followed_when_its_time_is_up(api: KubeApi, name: str) -> None:
    first, second = candidate(api, name, "first"), candidate(api, name, "second")
    async with running(first):
        await taken(first)
    async with running(second):
        await second.looked.wait()
        assert first.outlasts(0.0)
        await taken(second)
        assert not first.outlasts(0.0), "the follower began before the other had to stop"


async def test_the_same_process_started_again_goes_on_at_once(api: KubeApi, name: str) -> None:
    before, again = candidate(api, name, "same"), candidate(api, name, "same")
    async with running(before):
        await taken(before)
    async with running(again):
        await again.looked.wait()
        assert again.taken.is_set()
    assert (await spec_of(api, name))["leaseTransitions"] == 0


@pytest.mark.parametrize("year", [1999, 2099])
async def test_the_times_in_the_object_decide_nothing(api: KubeApi, name: str, year: int) -> None:
    spec = {"holderIdentity": "other", "leaseDurationSeconds": 2, "renewTime": f"{year}-01-01T00:00:00.000000Z"}
    await api.call("POST", LEASES, {"metadata": {"name": name}, "spec": spec})
    ours = candidate(api, name, "ours")
    began = time.monotonic()
    async with running(ours):
        await ours.looked.wait()
        assert not ours.taken.is_set(), "it had not been seen for two seconds"
        await taken(ours)
    assert time.monotonic() - began >= 2.0


async def test_a_holder_that_renews_is_never_followed(api: KubeApi, name: str) -> None:
    """Also by one that looks seldom, as when it was paused: what counts is whether it has changed since."""
    offset = 0.0
    await api.call("POST", LEASES, {"metadata": {"name": name}, "spec": {"holderIdentity": "other"}})
    ours = candidate(api, name, "ours", lambda: monotonic() + offset)
    async with running(ours):
        await ours.looked.wait()
        for number in range(4):
            await write(api, name, leaseDurationSeconds=2, leaseTransitions=number)
            offset += 100.0
            await looks(ours)
            assert not ours.taken.is_set()


async def looks(lease: Lease) -> None:
    """Return when it has looked once more."""
    lease.looked.clear()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await lease.looked.wait()


async def test_taken_away_it_is_lost_at_once(api: KubeApi, name: str) -> None:
    ours = candidate(api, name, "ours")
    async with running(ours) as task:
        await taken(ours)
        await write(api, name, holderIdentity="thief")
        assert "thief has it" in await lost(task)
    assert not ours.outlasts(0.0)
    await ours.release()
    assert (await spec_of(api, name))["holderIdentity"] == "thief"


async def test_deleted_it_is_made_again_with_who_has_led_before(api: KubeApi, name: str) -> None:
    earlier = {EARLIER: "first=2026-11-22T12:00:00.000000Z"}
    await api.call("POST", LEASES, {"metadata": {"name": name, "annotations": earlier}, "spec": {}})
    ours, made = candidate(api, name, "ours"), None
    async with running(ours):
        await taken(ours)
        await api.call("DELETE", f"{LEASES}/{name}")
        while made is None:
            with contextlib.suppress(GoneError):
                made = await api.call("GET", f"{LEASES}/{name}")
        assert made["metadata"]["annotations"] == earlier
        await renewed(api, name, 3)
        assert ours.outlasts(0.0)


async def test_touched_by_others_it_is_kept(api: KubeApi, name: str) -> None:
    ours = candidate(api, name, "ours")
    async with running(ours) as task:
        await taken(ours)
        body = {"metadata": {"labels": {"seen": "true"}}}
        await api.call("PATCH", f"{LEASES}/{name}", body, content_type=MERGE_PATCH)
        await renewed(api, name, 3)
        assert not task.done()
    assert (await api.call("GET", f"{LEASES}/{name}"))["metadata"]["labels"] == {"seen": "true"}


async def test_without_answers_it_is_given_up_before_others_may_have_it(
    api: KubeApi, wire: tuple[Wire, KubeApi], name: str
) -> None:
    line, through = wire
    ours, other = candidate(through, name, "ours"), candidate(api, name, "other")
    async with running(ours) as task:
        await taken(ours)
        async with running(other):
            await other.looked.wait()
            line.silent = True
            assert "could not be renewed in time" in await lost(task)
            assert not ours.outlasts(0.0)
            assert not other.taken.is_set()
            await taken(other)


async def test_a_lost_answer_is_no_lost_lease(api: KubeApi, wire: tuple[Wire, KubeApi], name: str) -> None:
    line, through = wire
    ours = candidate(through, name, "ours")
    async with running(ours) as task:
        await taken(ours)
        line.silent = True
        await renewed(api, name, 1)
        line.silent = False
        await line.cut()
        await renewed(api, name, 2)
        assert not task.done()
        assert ours.outlasts(0.0)


async def test_whoever_was_paused_writes_nothing_and_says_so(api: KubeApi, name: str) -> None:
    offset = 0.0
    ours = candidate(api, name, "ours", lambda: monotonic() + offset)
    async with running(ours) as task:
        await taken(ours)
        offset = SECONDS
        assert not ours.outlasts(0.0), "before it could notice"
        before = await spec_of(api, name)
        assert "could not be renewed in time" in await lost(task)
    assert await spec_of(api, name) == before


async def test_a_refusal_is_said_and_tried_again(api: KubeApi, name: str) -> None:
    nowhere = Lease(api, "no-such-namespace", name, "ours", SECONDS, utc_now)
    async with running(nowhere):
        await nowhere.looked.wait()
        assert not nowhere.taken.is_set()
    await nowhere.release()


async def test_what_another_has_by_now_is_not_released(api: KubeApi, name: str) -> None:
    first, second = candidate(api, name, "first"), candidate(api, name, "second")
    async with running(first):
        await taken(first)
    await write(api, name, holderIdentity="second")
    async with running(second):
        await taken(second)
        assert first.outlasts(0.0), "it does not know yet"
        await first.release()
        assert (await spec_of(api, name))["holderIdentity"] == "second"


class Server:
    """Stands in for an API server, in virtual time: keeps one Lease, and may be away."""

    def __init__(self) -> None:
        self.away = False
        self.slow = 0.0
        self._lease: dict[str, Any] = {"metadata": {"resourceVersion": "0"}, "spec": {}}

    async def call(self, method: str, _path: str, body: dict[str, Any] | None = None, **_: Any) -> dict[str, Any]:
        if self.away:
            raise ClusterError("nothing answers")
        await asyncio.sleep(self.slow)
        if body is not None:
            version = str(int(self._lease["metadata"]["resourceVersion"]) + 1)
            self._lease = {"metadata": {"resourceVersion": version}, "spec": {**self._lease["spec"], **body["spec"]}}
        return self._lease


@asynccontextmanager
async def kept_until_it_is_due() -> AsyncIterator[tuple[Server, Lease]]:
    """A lease of 15 s, which is renewed every two, in the moment before a renewal."""
    server: Any = Server()
    lease = Lease(server, "default", "any", "ours", 15.0, utc_now, asyncio.get_running_loop().time)
    async with running(lease):
        await asyncio.sleep(9.9)
        yield server, lease


@pytest.mark.looptime
async def test_what_could_not_be_renewed_is_tried_again_soon() -> None:
    async with kept_until_it_is_due() as (server, lease):
        server.away = True
        await asyncio.sleep(4.2)
        assert not lease.outlasts(12)
        server.away = False
        await asyncio.sleep(0.6)
        assert lease.outlasts(14)


@pytest.mark.looptime
@pytest.mark.parametrize("slow", [0.0, 6.0])
async def test_how_long_the_api_server_has_answered_is_known(slow: float) -> None:
    """It begins anew when a renewal has failed, or has taken its time."""
    async with kept_until_it_is_due() as (server, lease):
        assert lease.steady_for() == math.inf
        server.away, server.slow = not slow, slow
        await asyncio.sleep(3)
        assert lease.steady_for() == 0
        await asyncio.sleep(0.5)
        assert lease.steady_for() == 0
        server.away, server.slow = False, 0.0
        await asyncio.sleep(8)
        assert 4 < lease.steady_for() < 8
        await asyncio.sleep(100)
        assert 104 < lease.steady_for() < 108


@pytest.mark.looptime
async def test_what_was_renewed_slowly_is_renewed_at_once_again() -> None:
    async with kept_until_it_is_due() as (server, lease):
        server.slow = 5.0
        await asyncio.sleep(1)
        server.slow = 0.0
        await asyncio.sleep(4.5)
        assert lease.outlasts(14)


def test_an_identity_is_the_next_ones_too_and_nobody_elses() -> None:
    ours = identity("127.0.0.1", 8080)
    assert ours == identity("127.0.0.1", 8080)
    assert len({ours, identity("127.0.0.1", 8081), identity("0.0.0.0", 8080)}) == 3
    assert identity("127.0.0.1", 0) != identity("127.0.0.1", 0)
