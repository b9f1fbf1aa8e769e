"""Run a person's command inside a sandbox, in their terminal, and leave nothing of it behind."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from gatepass.sandbox.processes import GRACE_SECONDS, die_with_parent
from gatepass.sandbox.progress import say

_PR_SET_CHILD_SUBREAPER = 36
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedBySignalError(Exception):
    """A signal asked for the end; `status` is what a shell would report."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = signal.Signals(number)
        self.status = 128 + number


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """While the body runs, the first SIGINT, SIGTERM or SIGHUP raises InterruptedBySignalError, later ones nothing.

    So whatever cleans up on the way out is not cut short by an impatient second Ctrl-C.
    """

    def first(number: int, _: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise InterruptedBySignalError(number)

    before = {number: signal.signal(number, first) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Run `command` with our own standard streams and return its exit status, 128 + n for a signal.

    Interrupted, it first lets the command end, then makes it. On Linux, whatever the command left running is ended too.
    127 if there is no such program. Raises InterruptedBySignalError inside `ended_by_signals`.
    """
    _adopt_orphans()
    ours = _children()
    try:
        child = subprocess.Popen(command, env=dict(env), preexec_fn=die_with_parent)
    except OSError as error:
        say(f"gatepass sandbox: {command[0]}: {error.strerror}")
        return 127 if isinstance(error, FileNotFoundError) else 126  # as a shell says it
    try:
        status = child.wait()
    except InterruptedBySignalError as interruption:
        if not (interruption.number is signal.SIGINT and sys.stdin.isatty()):  # there, Ctrl-C has reached it already
            child.send_signal(interruption.number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS)
        raise
    finally:
        child.kill()
        child.wait()
        _end_orphans(ours)
    return status if status >= 0 else 128 - status


def _adopt_orphans() -> None:
    """Become the parent of whatever the command starts and leaves behind, so that it can be found."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _children() -> set[int]:
    """Our present children; empty where the system does not tell."""
    found: set[int] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(int(pid) for pid in task.read_text().split())
    return found


def _end_orphans(ours: set[int]) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    number = signal.SIGTERM
    while left := _children() - ours:
        if time.monotonic() > deadline:
            number = signal.SIGKILL
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)
