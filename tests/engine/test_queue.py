"""The keyed queue under a virtual clock: it coalesces, delays, backs off, and never doubles."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gatepass.engine.queue import Queue

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


class Worker:
    """Notes what it was called for and when; each call takes a second."""

    def __init__(self, workers: int = 2) -> None:
        self.calls: list[tuple[str, float]] = []
        self.busy: set[str] = set()
        self.most_busy = 0
        self.fail = False
        self.queue: Queue[str] = Queue("test", self._handle, workers)

    async def _handle(self, key: str) -> None:
        assert key not in self.busy, "one key is worked on twice at a time"
        self.busy.add(key)
        self.most_busy = max(self.most_busy, len(self.busy))
        self.calls.append((key, asyncio.get_running_loop().time()))
        await asyncio.sleep(1)
        self.busy.discard(key)
        if self.fail:
            raise RuntimeError("defect")


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    worker = Worker()
    task = asyncio.create_task(worker.queue.run())
    yield worker
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_many_adds_are_one_call(worker: Worker) -> None:
    for _ in range(10):
        worker.queue.add("a")
    await asyncio.sleep(10)
    assert worker.calls == [("a", 0)]


async def test_a_key_added_while_it_is_worked_on_is_worked_on_again(worker: Worker) -> None:
    worker.queue.add("a")
    await asyncio.sleep(0.5)
    worker.queue.add("a")
    await asyncio.sleep(10)
    assert worker.calls == [("a", 0), ("a", 1)]


async def test_the_earlier_time_wins(worker: Worker) -> None:
    worker.queue.add("a", 5)
    worker.queue.add("a", 3)
    worker.queue.add("a", 8)
    await asyncio.sleep(20)
    assert worker.calls == [("a", 3)]


async def test_no_more_than_its_workers_at_a_time(worker: Worker) -> None:
    for key in "abcde":
        worker.queue.add(key)
    await asyncio.sleep(20)
    assert worker.most_busy == 2
    assert sorted(key for key, _ in worker.calls) == list("abcde")


async def test_a_busy_key_does_not_hold_up_the_others(worker: Worker) -> None:
    worker.queue.add("a")
    await asyncio.sleep(0.1)
    worker.queue.add("a")
    worker.queue.add("b")
    await asyncio.sleep(10)
    assert ("b", 0.1) in worker.calls


async def test_retries_back_off_and_success_forgets(worker: Worker) -> None:
    for _ in range(3):
        worker.queue.retry("a")
        await asyncio.sleep(30)
    assert [at for _, at in worker.calls] == [0.5, 31, 62]
    worker.queue.succeeded("a")
    worker.queue.retry("a")
    await asyncio.sleep(30)
    assert worker.calls[-1] == ("a", 90.5)


async def test_who_is_patient_lets_all_others_go_first(worker: Worker) -> None:
    """Also those that come later, and a key that is urgent as well."""
    for key in "abcdef":
        worker.queue.add(key, patient=True)
    await asyncio.sleep(0.5)
    worker.queue.add("e")
    worker.queue.add("x", 0.5)
    await asyncio.sleep(10)
    assert worker.calls == [("a", 0), ("b", 0), ("e", 1), ("x", 1), ("c", 2), ("d", 2), ("f", 3)]


async def test_a_key_is_due_once_however_it_was_added(worker: Worker) -> None:
    worker.queue.add("a", 5)
    worker.queue.add("a", 3, patient=True)
    assert worker.queue.load().due == 0
    await asyncio.sleep(10)
    assert worker.calls == [("a", 3)]
    worker.queue.add("a", 5)
    worker.queue.add("a", 5, patient=True)
    worker.queue.forget("a")
    await asyncio.sleep(10)
    assert worker.calls == [("a", 3)]


async def test_a_defect_in_one_pass_is_tried_again(worker: Worker) -> None:
    worker.fail = True
    worker.queue.add("a")
    await asyncio.sleep(1.2)
    worker.fail = False
    await asyncio.sleep(10)
    assert [at for _, at in worker.calls] == [0, 1.5]


async def test_a_forgotten_key_is_not_worked_on(worker: Worker) -> None:
    worker.queue.add("a", 1)
    worker.queue.forget("a")
    await asyncio.sleep(10)
    assert worker.calls == []


async def test_what_is_forgotten_takes_no_room_while_nobody_works() -> None:
    """As on a standby, which is told of everything for weeks."""
    queue = Worker().queue
    queue.add("stays", 5.0)
    for number in range(20_000):
        queue.add(f"session-{number}")
        queue.forget(f"session-{number}")
    assert len(queue._prompt.heap) < 2_000


async def test_others_have_their_turn_while_much_is_due() -> None:
    done: list[int] = []

    async def handle(key: int) -> None:
        done.append(key)

    queue: Queue[int] = Queue("many", handle, workers=48)
    for key in range(1000):
        queue.add(key)
    task = asyncio.create_task(queue.run())
    before, most = 0, 0
    while len(done) < 1000:
        await asyncio.sleep(0)
        before, most = len(done), max(most, len(done) - before)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert most <= 4
    assert asyncio.get_running_loop().time() == 0.0
