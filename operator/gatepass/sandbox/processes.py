"""Child processes of the sandbox: started in a session of their own, ended by pid, never outliving their parent."""

import ctypes
import fcntl
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from gatepass.sandbox.errors import SandboxError

GRACE_SECONDS = 5.0
POLL_SECONDS = 0.02
_PR_SET_PDEATHSIG = 1
_handed_out: set[int] = set()
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """In a child, before it becomes another program: have the kernel kill it when the thread that started it is gone.

    Linux only. Nothing but one system call may happen here: between fork and exec, locks of the parent are never freed.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """One program with its log; may be started again after it has ended."""

    def __init__(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.log = log
        self._command = tuple(command)
        self._env = dict(env) if env is not None else None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    def start(self) -> None:
        """Start it, its output appended to the log; does not wait. Raises SandboxError if it runs already."""
        if self.pid is not None:
            raise SandboxError(f"{self.name} runs already")
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def wait_ready(self, ready: Callable[[], bool], seconds: float) -> None:
        """Poll `ready` until it is true. Raises SandboxError, with the end of the log, if it ends or time is up."""
        deadline = time.monotonic() + seconds
        while not ready():
            if self.pid is None:
                code = self._child.returncode if self._child is not None else None
                raise SandboxError(f"{self.name} ended with status {code} before it was ready{self._tail()}")
            if time.monotonic() > deadline:
                raise SandboxError(f"{self.name} was not ready after {seconds:.0f} s{self._tail()}")
            time.sleep(POLL_SECONDS)

    def kill(self) -> None:
        """SIGKILL to the process and what it started in its group, as a crash; returns when it is gone."""
        self._signal(signal.SIGKILL)
        if self._child is not None:
            self._child.wait()

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """SIGTERM, then SIGKILL after `grace` seconds; no error if it has ended already."""
        self.terminate()
        self.reap(grace)

    def terminate(self) -> None:
        """SIGTERM, without waiting: for ending several at once."""
        self._signal(signal.SIGTERM)

    def reap(self, grace: float = GRACE_SECONDS) -> None:
        """Wait for the end that `terminate` asked for, and force it after `grace` seconds."""
        if self._child is None:
            return
        try:
            self._child.wait(grace)
        except subprocess.TimeoutExpired:
            self.kill()

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None and self._child.poll() is None:
            os.killpg(self._child.pid, number)

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-12:]
        return "".join(f"\n  {line}" for line in lines) + f"\n  (whole log: {self.log})"


def free_ports(count: int) -> list[int]:
    """`count` TCP ports of 127.0.0.1 that nothing listens on, and that nobody else gets while this process lives.

    They lie below the kernel's range for outgoing connections, so that none of those takes one before it is used.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(10_000, 32_000)
        if port not in _handed_out and _reserve(port) and _is_free(port):
            _handed_out.add(port)
            ports.append(port)
    return ports


def _reserve(port: int) -> bool:
    """Lock a byte of a file for each port: the kernel lets go of it when the process has ended, however it ends."""
    try:
        fcntl.lockf(_reservations(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


@cache
def _reservations() -> int:
    """A file that stays open as long as this process lives, as its locks end when it is closed."""
    return os.open(Path(tempfile.gettempdir()) / f"gatepass-ports-{os.getuid()}", os.O_WRONLY | os.O_CREAT, 0o600)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def is_ready(port: int) -> bool:
    """Whether an operator whose probes are on this port of loopback says that it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
