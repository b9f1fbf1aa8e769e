"""An event loop whose time is virtual and whose order is drawn from a seed."""

import asyncio
import contextlib
from collections.abc import Callable
from random import Random
from typing import Any, Final

_STEP_SECONDS: Final = 1e-5
"""What a turn of the loop takes: so time never stands still, and a wait that no clock resolves ends."""
_TURNS_PER_SECOND: Final = 20_000
"""More turns than this in one virtual second are a hot loop: a restart with a full cluster takes a few hundred."""


class HotLoopError(Exception):
    """The program does not come to rest."""


class _NoSockets:
    """Waits for nothing but time, and lets it pass at once."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise HotLoopError("nothing is left to wait for")
        self._loop.pass_time(timeout)
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """What is ready at the same moment runs in an order drawn from `order`.

    Raises HotLoopError out of `run_until_complete` when the program never comes to rest.
    """

    def __init__(self, order: Random) -> None:
        super().__init__()
        self._order = order
        self._now = 0.0
        self._selector = _NoSockets(self)
        self._clock_resolution = 1e-9
        self._second = 0
        self._turns_in_second = 0
        self._alarm: tuple[int, Callable[[], None]] | None = None
        self.turns = 0

    def time(self) -> float:
        """Virtual seconds since the beginning."""
        return self._now

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds + _STEP_SECONDS

    def after_turns(self, turns: int, callback: Callable[[], None]) -> None:
        """Call back between two turns, which is at any await of the program; one such call at a time."""
        self._alarm = self.turns + turns, callback

    def _run_once(self) -> None:
        ready = self._ready  # type: ignore[attr-defined]
        if len(ready) > 1:
            shuffled = list(ready)
            self._order.shuffle(shuffled)
            ready.clear()
            ready.extend(shuffled)
        super()._run_once()  # type: ignore[misc]
        self.turns += 1
        if self._alarm is not None and self.turns >= self._alarm[0]:
            callback, self._alarm = self._alarm[1], None
            callback()
        if int(self._now) != self._second:
            self._second, self._turns_in_second = int(self._now), 0
        self._turns_in_second += 1
        if self._turns_in_second > _TURNS_PER_SECOND:
            raise HotLoopError(f"more than {_TURNS_PER_SECOND} turns of the loop in second {self._second}")

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody else wakes this loop."""


def close(loop: VirtualLoop) -> None:
    """Leave no task behind, whatever they were doing."""
    with contextlib.suppress(HotLoopError):
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
    asyncio.set_event_loop(None)
