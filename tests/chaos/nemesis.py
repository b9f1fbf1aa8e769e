"""What happens to the machinery meanwhile: kills, restarts and partitions, all drawn from a seed."""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.chaos.stage import Stage

WAYS = ("kill", "api-server", "etcd", "no-api-server", "no-lease", "no-ec2", "frozen")
_SHORT = ("api-server", "etcd", "no-api-server", "frozen")
"""Outages that a lease outlives, unless one follows the other before it has been renewed."""
_KILL_PAUSE_SECONDS = 1.5


@dataclass(frozen=True)
class Blow:
    """One thing that happens, so many seconds after the beginning; `lot` decides its details."""

    at: float
    what: str
    lot: int


def drawn(lot: random.Random, counts: Mapping[str, int], seconds: float) -> list[Blow]:
    """So many of each, spread over the time."""
    return sorted(
        (Blow(lot.uniform(1.0, seconds), what, lot.randrange(2**32)) for what in counts for _ in range(counts[what])),
        key=lambda blow: blow.at,
    )


class Nemesis:
    """Strikes in its time, one blow after the other; in a thread that stays, as processes end with who started them."""

    def __init__(self, stage: Stage, blows: list[Blow], over: Callable[[], bool]) -> None:
        self._stage, self._blows, self._over = stage, blows, over
        self.struck: Counter[str] = Counter()

    def run(self) -> None:
        """All of them, or until it is over; leaves everything whole and the operator running."""
        began = time.monotonic()
        ways: Mapping[str, Callable[[random.Random], None]] = {
            "kill": self._kill,
            "api-server": self._restart_api_server,
            "etcd": self._restart_etcd,
            "no-api-server": self._partition_from_the_api_server,
            "no-lease": self._partition_until_the_lease_is_lost,
            "no-ec2": self._partition_from_ec2,
            "frozen": self._freeze_the_api_server,
        }
        for blow in self._blows:
            time.sleep(max(0.0, began + blow.at - time.monotonic()))
            if self._over():
                return
            if blow.what in _SHORT:
                self._stage.renewed()
            ways[blow.what](random.Random(blow.lot))
            self.struck[blow.what] += 1

    def _kill(self, lot: random.Random) -> None:
        self._stage.operator.kill()
        time.sleep(lot.uniform(0.0, _KILL_PAUSE_SECONDS))
        if lot.random() < 0.25:  # and once more while it starts
            self._stage.operator.start()
            time.sleep(lot.uniform(0.5, 4.0))
            self._stage.operator.kill()
            self.struck["kill"] += 1
        self._stage.start()
        time.sleep(lot.uniform(0.0, _KILL_PAUSE_SECONDS))

    def _restart_api_server(self, lot: random.Random) -> None:
        with self._stage.unreachable():
            self._stage.sandbox.control_plane.restart_api(kill=lot.random() < 0.5)
            self._stage.served()

    def _restart_etcd(self, lot: random.Random) -> None:
        with self._stage.unreachable():
            self._stage.sandbox.control_plane.restart_etcd(kill=lot.random() < 0.5)
            self._stage.served()

    def _partition_from_the_api_server(self, lot: random.Random) -> None:
        with self._stage.unreachable():
            self._stage.kube.cut("silent" if lot.random() < 0.5 else "reset")
            time.sleep(lot.uniform(1.0, 6.0))
            self._stage.kube.mend()

    def _partition_until_the_lease_is_lost(self, lot: random.Random) -> None:
        with self._stage.unreachable():
            self._stage.kube.cut("silent" if lot.random() < 0.5 else "reset")
            time.sleep(lot.uniform(12.0, 20.0))
            self._stage.kube.mend()
            self._stage.start_again()

    def _freeze_the_api_server(self, lot: random.Random) -> None:
        with self._stage.unreachable():
            with self._stage.sandbox.control_plane.frozen_api():
                time.sleep(lot.uniform(1.0, 6.0))
            self._stage.served()

    def _partition_from_ec2(self, lot: random.Random) -> None:
        with self._stage.unreachable():
            self._stage.ec2.cut("silent" if lot.random() < 0.5 else "reset")
            time.sleep(lot.uniform(1.0, 6.0))
            self._stage.ec2.mend()
