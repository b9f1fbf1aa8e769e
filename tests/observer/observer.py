"""The observer, for tests: starts the process that watches whether the promise is kept, and talks to it."""

import json
import select
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gatepass.sandbox.cloud import ACCOUNT, REGION
from gatepass.sandbox.environment import Sandbox
from tests.observer.__main__ import Scene
from tests.observer.judge import Breach

_PATIENCE_SECONDS = 60.0
_AFTERWARDS_SECONDS = 600.0
"""To judge minutes of ten thousand sessions takes half a minute, on a machine that has nothing else to do."""
_ROOT = Path(__file__).parents[2]


def install_id(sandbox: Sandbox) -> str:
    """What marks the rules of the sandbox's Gatepass."""
    with sandbox.control_plane.api() as api:
        uid = api.request("GET", "/api/v1/namespaces/kube-system")["metadata"]["uid"]
    return f"{uid}/gatepass-system/gatepass"


class Observer:
    """Follows EC2's call log and the API server's watches in a process of its own; use it in a `with`.

    `owner` is the install id. `resync_seconds` is how long a door may stay closed after somebody else has removed its
    rule. Lateness counts from when the operator has said that it is ready until it ends, and all the time if `trusting`
    is False. With `afterwards` it only writes down what happens, and judges it when it is asked: for measurements.
    """

    def __init__(
        self, sandbox: Sandbox, owner: str, resync_seconds: float, *, trusting: bool = True, afterwards: bool = False
    ) -> None:
        plane = sandbox.control_plane
        self._scene = Scene(
            server=plane.server,
            ca=str(plane.ca),
            token=plane.admin_token,
            endpoint_url=sandbox.endpoint_url,
            region=REGION,
            account=ACCOUNT,
            owner=owner,
            health_url=sandbox.health_url if trusting else None,
            resync_seconds=resync_seconds,
            afterwards=afterwards,
        )
        self._patience = _AFTERWARDS_SECONDS if afterwards else _PATIENCE_SECONDS
        self._lock = threading.Lock()

    def __enter__(self) -> "Observer":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.observer"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert self._exchange(asdict(self._scene)) == "observing"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def touching(self, *ids: str) -> None:
        """The test is about to change or remove these rules itself."""
        self._command("touching", ids=ids)

    def runner_lost(self, uid: str, seconds: float = 0.0, *, at: float | None = None) -> None:
        """The test takes the runner of this session away now, and it is gone in so many seconds at the latest.

        With infinity it may be gone from now on, and another call says when it is. `at` is in seconds since 1970: who
        judges afterwards may be told afterwards.
        """
        self._command("runner_lost", uid=uid, seconds=seconds, at=at)

    def comes_from(self, origins: Mapping[str, Collection[str]]) -> None:
        """The addresses of sessions that are yet to be made, by namespace and name: as their statuses should tell."""
        self._command("comes_from", origins={name: sorted(ips) for name, ips in origins.items()})

    @contextmanager
    def blind_for(self, group: str) -> Iterator[None]:
        """The test makes it impossible to keep the promise in this group, and says so."""
        self._command("blind", group=group, blind=True)
        yield
        self._command("blind", group=group, blind=False)

    def reachable(self, *, reachable: bool) -> None:
        """Whether the operator reaches both the API server and EC2, as far as the test has its hands in it."""
        self._command("reachable", reachable=reachable)

    def read_lag(self, seconds: float) -> None:
        """How much longer a rule may be open whose id no status has recorded: EC2's reads lag so far."""
        self._command("read_lag", seconds=seconds)

    def catch_up(self) -> None:
        """Return when everything that is true now has been looked at."""
        self._command("catch_up")

    def take_breaches(self) -> list[Breach]:
        """The breaches that were not taken yet, up to now."""
        return [Breach(**each) for each in self._command("breaches")]

    def take_statuses(self) -> list[dict[str, Any]]:
        """Every session with a status, as often as it was seen, since the last time."""
        found: list[dict[str, Any]] = self._command("statuses")
        return found

    def summary(self) -> dict[str, Any]:
        """The figures of everything so far; see `finals.summary`."""
        found: dict[str, Any] = self._command("summary")
        return found

    def _command(self, name: str, **given: Any) -> Any:
        return self._exchange({"name": name, **given})

    def _exchange(self, line: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            assert self._process.poll() is None, "the observer has died"
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()
            heard, _, _ = select.select([self._process.stdout], [], [], self._patience)
            assert heard, "the observer does not answer"
            answer = json.loads(self._process.stdout.readline() or '{"error": "it has died"}')
        assert "error" not in answer, f"the observer: {answer['error']}"
        return answer["answer"]
