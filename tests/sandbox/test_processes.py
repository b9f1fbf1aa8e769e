"""Child processes end when they should, and with their parent."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from gatepass.sandbox.errors import SandboxError
from gatepass.sandbox.processes import Process, free_ports

SLEEP = ["sleep", "600"]
PATIENCE_SECONDS = 20.0


def gone(pid: int) -> bool:
    """Whether no such process runs any more; a zombie runs no more either."""
    try:
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    except subprocess.CalledProcessError:
        return True
    return state.startswith("Z")


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not gone(pid):
        assert time.monotonic() < deadline, f"{pid} still runs"
        time.sleep(0.01)


def test_it_stops_starts_again_and_is_killed(tmp_path: Path) -> None:
    process = Process("sleep", SLEEP, tmp_path / "log")
    assert process.pid is None
    process.stop()  # nothing to stop, no error
    process.start()
    first = process.pid
    assert first is not None
    with pytest.raises(SandboxError, match="runs already"):
        process.start()
    process.stop()
    assert process.pid is None
    assert gone(first)
    process.start()
    assert process.pid not in (None, first)
    process.kill()
    assert process.pid is None


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    script = "trap '' TERM; echo ready; while true; do sleep 1; done"
    process = Process("stubborn", ["sh", "-c", script], tmp_path / "log")
    process.start()
    process.wait_ready(lambda: "ready" in (tmp_path / "log").read_text(), PATIENCE_SECONDS)
    process.stop(grace=0.1)
    assert process.pid is None


def test_one_that_fails_to_start_is_told_with_its_log(tmp_path: Path) -> None:
    process = Process("broken", ["sh", "-c", "echo no such flag >&2; exit 3"], tmp_path / "log")
    process.start()
    with pytest.raises(SandboxError, match=r"broken ended with status 3 before it was ready\n  no such flag"):
        process.wait_ready(lambda: False, PATIENCE_SECONDS)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from gatepass.sandbox.processes import Process
        child = Process("sleep", {SLEEP!r}, Path({str(tmp_path / "log")!r}))
        child.start()
        print(child.pid, flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not gone(child)
        os.kill(parent.pid, signal.SIGKILL)
    wait_until_gone(child)


def test_free_ports_differ() -> None:
    assert len(set(free_ports(50))) == 50


def test_free_ports_of_another_process_are_others() -> None:
    script = "from gatepass.sandbox.processes import free_ports; print(*free_ports(1000), flush=True); input()"
    command = [sys.executable, "-c", script]
    with ExitStack() as stack:
        children = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(2)
        ]
        one, another = ({int(port) for port in (child.stdout or sys.stdin).readline().split()} for child in children)
        for child in children:
            child.communicate("\n")
    assert len(one) == len(another) == 1000
    assert not one & another, "by chance some forty would be the same"
