"""What the kernel says of a process: its processor time, its memory, and when it has become quiet."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_MIB = 1024
_POLL_SECONDS = 0.05
_QUIET_SHARE = 0.1


@dataclass(frozen=True)
class Memory:
    """In MiB: now, and the most there ever was."""

    resident: float
    peak: float


def memory(pid: int) -> Memory:
    """VmRSS and VmHWM."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = {
        name: int(rest.split()[0]) / _MIB
        for name, _, rest in (line.partition(":") for line in lines)
        if rest.endswith("kB")
    }
    return Memory(round(values["VmRSS"], 1), round(values["VmHWM"], 1))


def cpu_seconds(pid: int) -> float:
    """User and system time of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def quiet_since(pid: int, seconds: float, latest: float, tick: Callable[[], None] = lambda: None) -> float:
    """The monotonic second since which it has used less than a tenth of a core, once that has lasted `seconds`.

    Raises TimeoutError after `latest` seconds. `tick` is called now and then.
    """
    until = time.monotonic() + latest
    samples: list[tuple[float, float]] = []
    while True:
        now = time.monotonic()
        samples.append((now, cpu_seconds(pid)))
        while len(samples) > 1 and samples[1][0] <= now - seconds:
            samples.pop(0)
        lasted, used = now - samples[0][0], samples[-1][1] - samples[0][1]
        if lasted >= seconds and used < lasted * _QUIET_SHARE:
            return _last_busy(samples)
        if now > until:
            raise TimeoutError(f"process {pid} is busy after {latest:.0f} s")
        tick()
        time.sleep(_POLL_SECONDS)


def _last_busy(samples: list[tuple[float, float]]) -> float:
    """When the last stretch of work within the samples ended; what is used now and then is not work."""
    for (_, before), (at, after) in zip(reversed(samples[:-1]), reversed(samples[1:]), strict=True):
        if after - before > _POLL_SECONDS / 2:
            return at
    return samples[0][0]
