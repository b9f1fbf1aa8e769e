"""The real operator as a process of its own, started as the tests want it, under Gatepass's own service account."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gatepass.sandbox.environment import Sandbox
from gatepass.sandbox.processes import Process

READY_SECONDS = 60.0
RESYNC_SECONDS = 3.0
ACCOUNT_NAME = "system:serviceaccount:gatepass-system:gatepass"
_WRITES = {"create", "update", "patch", "delete"}


class Product:
    """The operator in a sandbox that was started without one."""

    def __init__(self, sandbox: Sandbox, command: str = "operator", **settings: str) -> None:
        self._sandbox = sandbox
        self._command = command
        self._settings = settings
        self._process = self._prepared({})

    def _prepared(self, settings: dict[str, str]) -> Process:
        command = [sys.executable, "-m", "gatepass", self._command]
        command += ["--kubeconfig", str(self._sandbox.operator_kubeconfig)]
        given = {"GATEPASS_RESYNC_SECONDS": str(RESYNC_SECONDS), **self._settings, **settings}
        return Process("operator", command, self._sandbox.operator_log, {**self._sandbox.env, **given})

    def ready(self) -> bool:
        """Does it run and say that it is ready?"""
        return self._process.pid is not None and self._sandbox.operator_ready()

    def start(self) -> None:
        """Start it; returns when it is ready."""
        self._process.start()
        self._process.wait_ready(self._sandbox.operator_ready, READY_SECONDS)

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self._process.kill()

    def freeze(self) -> None:
        """SIGSTOP: what it has sent has its effect, and it does nothing about the answers."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def stop(self) -> None:
        """End it in order."""
        self._process.stop()

    @contextmanager
    def with_settings(self, **settings: str) -> Iterator[None]:
        """Run it with other settings for a while."""
        self.stop()
        self._process = self._prepared(settings)
        try:
            self.start()
            yield
        finally:
            self.stop()
            self._process = self._prepared({})
            self.start()

    def writes(self) -> list[dict[str, Any]]:
        """Everything that it has written to the API server so far, but for its lease, from the audit log."""
        whole, _, _ = self._sandbox.control_plane.audit_log.read_text().rpartition("\n")  # the last is being written
        lines = whole.splitlines()
        entries = (json.loads(line) for line in lines)
        return [
            entry
            for entry in entries
            if entry["user"].get("username") == ACCOUNT_NAME
            and entry["verb"] in _WRITES
            and entry["objectRef"]["resource"] not in ("subjectaccessreviews", "leases")
        ]
