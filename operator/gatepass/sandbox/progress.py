"""Progress of slow steps on stderr: a live line on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

PLAIN_INTERVAL_SECONDS = 15.0


class Step:
    """One slow step, told as `done` of `total` in `unit`."""

    def __init__(self, title: str, unit: str, bar: Progress | None) -> None:
        self._title, self._unit, self._bar = title, unit, bar
        self._task = bar.add_task(title, total=None, unit=unit) if bar else None
        self._started = self._said = time.monotonic()

    def update(self, done: float, total: float | None) -> None:
        """Show how far the step is; call it as often as you like, at least every few seconds."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)
            return
        now = time.monotonic()
        if now - self._said >= PLAIN_INTERVAL_SECONDS:
            self._said = now
            of = f" of {total:.0f}" if total else ""
            say(f"{self._title}: {done:.0f}{of} {self._unit}, {now - self._started:.0f} s")


def say(message: str) -> None:
    """Print one plain line for a person to stderr."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def step(title: str, unit: str) -> Iterator[Step]:
    """Show `title` while the body runs; the body calls `update` on what it is given."""
    console = Console(stderr=True)
    if not console.is_terminal:
        say(f"{title} ...")
        yield Step(title, unit, None)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total} {task.fields[unit]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield Step(title, unit, bar)
