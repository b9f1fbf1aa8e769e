"""Writes the trail beside everything else: nobody waits for it who does not ask to."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar
from uuid import uuid4

import structlog

from gatepass.audit.export import checkpoint_line
from gatepass.audit.proof import BrokenError
from gatepass.audit.trail import Trail
from gatepass.core.audit import INSTALLATION, AuditEntry, EventType
from gatepass.core.ports import AuditError

T = TypeVar("T")

log = structlog.get_logger(__name__)

CAPACITY: Final = 10_000
"""Entries kept in memory while the database does not serve: about ten minutes of a busy installation."""
_BATCH: Final = 500
_ATTEMPT_SECONDS: Final = 10.0
_FIRST_PAUSE: Final = 0.5
_LAST_PAUSE: Final = 30.0


class _Waiting(NamedTuple):
    """Somebody who wants to know when all of these are durable."""

    entries: tuple[AuditEntry, ...]
    done: asyncio.Future[None]


class Writer:
    """The port `Audit`, over a Trail. `retention` is None when entries are kept for ever.

    Entries wait in memory, in their order, until the database has them: their ids make a write whose answer was lost
    safe to repeat. When `capacity` is reached, further ones are dropped, counted, and told as an AUDIT_GAP once the
    database serves again. What is in memory when the process is killed is lost, and shows as a writer that started and
    never ended; entries of sessions are told again at the next start.
    """

    def __init__(
        self,
        trail: Trail,
        now: Callable[[], datetime],
        retention: timedelta | None,
        *,
        capacity: int = CAPACITY,
        housekeeping_seconds: float = 3600.0,
    ) -> None:
        self._trail = trail
        self._now = now
        self._retention = retention
        self._capacity = capacity
        self._housekeeping_seconds = housekeeping_seconds
        self._id = str(uuid4())
        self._line: deque[AuditEntry] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._lost: tuple[int, datetime, datetime] | None = None
        self._some = asyncio.Event()
        self._under_way: set[asyncio.Task[Any]] = set()
        self._ready = False
        self._failing = False

    # the port

    def record(self, *entries: AuditEntry) -> None:
        """Write the entries soon; never waits, and never fails."""
        for entry in entries:
            if len(self._line) >= self._capacity:
                self._lose(entry)
            else:
                self._line.append(entry)
        self._some.set()

    async def written(self, *entries: AuditEntry) -> None:
        """Write the entries before those that nobody waits for; raises AuditError when the database does not serve."""
        if not entries:
            return
        if self._failing:
            raise AuditError("the audit database does not serve")
        waiting = _Waiting(entries, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._some.set()
        await waiting.done

    # at work

    async def run(self) -> None:
        """Write until cancelled."""
        self._line.appendleft(self._told(EventType.AUDIT_STARTED, writer=self._id))
        self._some.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write())
            tasks.create_task(self._keep_house())

    async def close(self, seconds: float) -> None:
        """Write what is left and that the writer ends, once `run` has been cancelled; gives up after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*self._under_way, return_exceptions=True)
                while self._line or self._waiting or self._lost:
                    await self._attempt()
                await self._trail.append([self._told(EventType.AUDIT_STOPPED, writer=self._id)])
        except Exception as error:
            lost = len(self._line)
            log.error("audit entries are lost", entries=lost, error=_plain(error))  # noqa: TRY400 an outage, no defect
        self._refuse_who_waits()
        await self._trail.close()

    async def _write(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            await self._some.wait()
            try:
                await self._whole(self._attempt())
            except Exception as error:
                # Whatever it is: it must not end the operator, which has doors to close.
                if not self._failing:
                    log.warning("the audit trail cannot be written", waiting=len(self._line), error=_plain(error))
                self._failing = True
                self._refuse_who_waits()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LAST_PAUSE)
            else:
                if self._failing:
                    log.info("the audit trail is written again", waiting=len(self._line))
                self._failing = False
                pause = _FIRST_PAUSE
                if not self._line and not self._waiting:
                    self._some.clear()

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Work that is not cut off in the middle of a transaction when the writer ends; bounded in time."""
        task = asyncio.create_task(asyncio.wait_for(work, _ATTEMPT_SECONDS))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _attempt(self) -> None:
        """One transaction."""
        if not self._ready:
            await self._trail.migrate()
            self._ready = True
        self._tell_gap()
        waiting, first = self._first_to_serve()
        batch = list(islice(self._line, _BATCH))
        kept_since = None if self._retention is None else self._now() - self._retention
        await self._trail.append([*first, *batch], not_before=kept_since)
        for _ in batch:
            self._line.popleft()
        for each in waiting:
            self._waiting.popleft()
            if not each.done.done():
                each.done.set_result(None)

    def _first_to_serve(self) -> tuple[list[_Waiting], list[AuditEntry]]:
        """Some who wait, and their entries: as many as one transaction takes well."""
        waiting: list[_Waiting] = []
        entries: list[AuditEntry] = []
        for each in self._waiting:
            waiting.append(each)
            entries += each.entries
            if len(entries) >= _BATCH:
                break
        return waiting, entries

    def _refuse_who_waits(self) -> None:
        while self._waiting:
            done = self._waiting.popleft().done
            if not done.done():
                done.set_exception(AuditError("the audit database does not serve"))

    # what is lost

    def _lose(self, entry: AuditEntry) -> None:
        count, since, _ = self._lost or (0, entry.at, entry.at)
        if count == 0:
            log.error("the audit trail's memory is full: entries are lost", kept=len(self._line))
        self._lost = count + 1, since, entry.at

    def _tell_gap(self) -> None:
        """Once there is room again, and the database has taken what was before it."""
        if self._lost is None or len(self._line) >= self._capacity:
            return
        count, since, until = self._lost
        self._lost = None
        told = {"lost": str(count), "from": since.isoformat(), "to": until.isoformat(), "writer": self._id}
        self._line.append(self._told(EventType.AUDIT_GAP, **told))

    def _told(self, event: EventType, **details: str) -> AuditEntry:
        return AuditEntry(event=event, at=self._now(), namespace=INSTALLATION, details=details)

    # retention

    async def _keep_house(self) -> None:
        """Remove what is too old, and tell the log where the chain ends: there it is out of the database's reach."""
        while True:
            await asyncio.sleep(self._housekeeping_seconds)
            try:
                while await self._whole(self._prune()):
                    pass
                point = await self._whole(self._trail.checkpoint(self._now()))
                log.info("audit checkpoint", checkpoint=checkpoint_line(point))
            except BrokenError as error:
                log.error("the audit trail is broken, nothing is removed", error=str(error))  # noqa: TRY400 the same
            except Exception as error:
                log.warning("no audit checkpoint", error=_plain(error))

    async def _prune(self) -> int:
        if self._retention is None:
            return 0
        return await self._trail.prune(self._now() - self._retention, self._now())


def _plain(error: BaseException) -> str:
    """An error without the statement and its values."""
    return str(getattr(error, "orig", None) or error or type(error).__name__).split("\n")[0]
