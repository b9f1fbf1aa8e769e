"""`gatepass sandbox` as a person runs it: the command's world, its status, and nothing left behind."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatepass.sandbox.cloud import ACCOUNT
from gatepass.sandbox.ec2.profiles import PROFILES
from tests.sandbox.test_processes import wait_until_gone

RUN = [sys.executable, "-m", "gatepass", "sandbox", "run", "--no-operator", "--"]
REPORT = 'echo "at $(dirname "$GATEPASS_OPERATOR_KUBECONFIG")"; '
FAULTS_IN_FORCE = (
    "import os; from gatepass.sandbox.ec2.client import Ec2Control; "
    'control = Ec2Control(os.environ["AWS_ENDPOINT_URL"], "", ""); '
    'print("in force:", [each["kind"] for each in control.faults()])'
)
PATIENCE_SECONDS = 120.0


@pytest.fixture(autouse=True)
def logs_go_with_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sandboxes make their directories here, so that kept logs do not pile up."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def directory_in(output: str) -> Path:
    found = re.search(r"^at (.+)$", output, re.MULTILINE)
    assert found, output
    return Path(found.group(1))


def processes_of(directory: Path) -> list[str]:
    """Command lines that name a sandbox's directory: every part of it has it there."""
    listed = subprocess.run(["ps", "-eww", "-o", "pid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(directory) in line and line.split()[1][0] != "Z"]


def nothing_left(directory: Path) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while processes_of(directory):
        assert time.monotonic() < deadline, processes_of(directory)
        time.sleep(0.02)
    return True


@contextlib.contextmanager
def running(script: str) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """A sandbox whose command runs until it is told to end, once the command has begun; and its directory."""
    command = [*RUN, "sh", "-c", f"{REPORT} {script}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as sandbox:
        try:
            assert sandbox.stdout is not None
            yield sandbox, directory_in(sandbox.stdout.readline())
        finally:
            sandbox.kill()


def test_two_side_by_side_each_with_its_own_world() -> None:
    script = REPORT + (
        "kubectl get accesssessions,protectedresources -A && "
        'kubectl --kubeconfig "$GATEPASS_OPERATOR_KUBECONFIG" auth whoami -o jsonpath="{.status.userInfo.username}" && '
        "python -c \"import boto3; print(' account', boto3.client('sts').get_caller_identity()['Account'])\" && "
        'curl -sk -o /dev/null -H "Authorization: Bearer $GATEPASS_TOKEN" "$(kubectl config view --minify '
        "-o jsonpath='{.clusters[0].cluster.server}')/api\" -w 'token %{http_code}\\n'"
    )
    misled = {**os.environ, "AWS_PROFILE": "production", "AWS_SESSION_TOKEN": "stale"}
    both = [
        subprocess.Popen(
            [*RUN, "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=misled
        )
        for _ in range(2)
    ]
    outputs = [each.communicate(timeout=PATIENCE_SECONDS)[0] for each in both]
    assert [each.returncode for each in both] == [0, 0], outputs
    for output in outputs:
        assert f"system:serviceaccount:gatepass-system:gatepass account {ACCOUNT}" in output
        assert "token 200" in output
    first, second = (directory_in(output) for output in outputs)
    assert first != second
    for directory in (first, second):
        assert nothing_left(directory)
        assert not directory.exists()


def test_a_failure_is_passed_on_logs_are_kept_and_orphans_are_ended() -> None:
    script = REPORT + f"{sys.executable} -c '{FAULTS_IN_FORCE}'; sleep 600 & echo orphan $!; exit 7"
    command = [*RUN[:-1], "--ec2-faults", "denied,quota", "--", "sh", "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert ended.returncode == 7
    directory = directory_in(ended.stdout)
    assert "in force: ['deny', 'quota']\n" in ended.stdout
    assert f"the sandbox's logs are in {directory}" in ended.stderr
    assert {"ec2.log", "ec2-calls.jsonl"} <= {path.name for path in directory.iterdir()}
    assert (directory / "kubernetes" / "kube-apiserver.log").stat().st_size > 0
    assert nothing_left(directory)
    if sys.platform == "linux":
        wait_until_gone(int(ended.stdout.split("orphan ")[1]))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_command_and_sandbox(number: signal.Signals, status: int) -> None:
    with running("exec sleep 600") as (sandbox, directory):
        sandbox.send_signal(number)
        sandbox.communicate(timeout=PATIENCE_SECONDS)
        assert sandbox.returncode == status
        assert nothing_left(directory)
        assert not directory.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_killed_sandbox_leaves_no_process() -> None:
    with running("exec sleep 600") as (sandbox, directory):
        assert processes_of(directory)
        sandbox.kill()
        sandbox.communicate(timeout=PATIENCE_SECONDS)
        assert nothing_left(directory)


def test_a_command_that_does_not_exist_and_an_unknown_profile_are_said_plainly() -> None:
    faults = ["--ec2-faults", "slow,lag", "--ec2-seed", "5"]
    missing = subprocess.run(
        [*RUN[:-1], *faults, "--", "no-such-program"], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert missing.returncode == 127
    assert f"gatepass sandbox: {' '.join(faults)}\n" in missing.stderr, "what it takes to have the same run again"
    assert "gatepass sandbox: no-such-program: No such file or directory" in missing.stderr
    unknown = subprocess.run(
        [*RUN[:-1], "--ec2-faults", "gremlins", "--", "true"], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert unknown.returncode == 1
    assert "there is no profile of EC2 faults 'gremlins'" in unknown.stderr
    assert all(f"\n  {name} " in unknown.stderr for name in PROFILES), "each is told, with what it does"


@pytest.mark.parametrize("caller", ["nobody", "", "127.0.0.1", "::1", "203.0.113.0/24", "::ffff:192.0.2.1"])
def test_a_caller_that_no_firewall_could_let_in_is_refused(caller: str) -> None:
    done = subprocess.run(
        [*RUN[:-1], "--caller", caller, "--", "true"], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 1
    assert done.stderr == (
        "gatepass sandbox: --caller must be an address that a firewall could let in, such as 203.0.113.10: "
        f"got {caller!r}\n"
    )


def test_up_prints_what_a_shell_needs_and_stays_until_ctrl_c() -> None:
    command = [sys.executable, "-m", "gatepass", "sandbox", "up", "--no-operator"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as sandbox:
        try:
            assert sandbox.stdout is not None
            assert sandbox.stderr is not None
            said = sandbox.stderr.readline()
            assert "Ctrl-C ends it" in said
            os.set_blocking(sandbox.stdout.fileno(), False)
            exports = sandbox.stdout.read()
            script = f"{exports}\n{REPORT}kubectl get accesssessions -A"
            used = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
            os.set_blocking(sandbox.stdout.fileno(), True)
            sandbox.send_signal(signal.SIGINT)
            sandbox.communicate(timeout=PATIENCE_SECONDS)
            assert sandbox.returncode == 0
            assert nothing_left(directory_in(used.stdout))
        finally:
            sandbox.kill()


def test_the_rest_api_sees_the_caller_that_is_asked_for() -> None:
    command = [sys.executable, "-m", "gatepass", "sandbox", "run", "--caller", "2001:db8::7", "--"]
    script = 'curl -s -H "X-Forwarded-For: 192.0.2.1" "$GATEPASS_API_URL/api/v1/detect-ip"'
    ended = subprocess.run([*command, "sh", "-c", script], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == '{"ip":"2001:db8::7","version":"IPv6"}'
