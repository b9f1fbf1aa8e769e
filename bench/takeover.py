"""Two replicas on what `bench.size` has opened: from the end of the leader to the first rule of its successor."""

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from bench.figures import Figure
from bench.records import AUTHORIZE
from bench.scene import VERSION
from gatepass.sandbox.environment import Sandbox
from gatepass.sandbox.processes import Process, free_ports, is_ready

READY_SECONDS, PATIENCE_SECONDS = 60.0, 120.0
LEASE_SECONDS, MORE_SECONDS = 15.0, 2.0
"""Of a leader that has died, its lease has to run out; and that much more it may take."""


class Standby:
    """The second replica, ready to lead."""

    def __init__(self, sandbox: Sandbox, command: list[str], env: Mapping[str, str]) -> None:
        self._sandbox = sandbox
        self._port, metrics_port = free_ports(2)
        ports = {"GATEPASS_HEALTH_PORT": str(self._port), "GATEPASS_METRICS_PORT": str(metrics_port)}
        self.process = Process("standby", command, sandbox.directory / "standby.log", {**env, **ports})

    def start(self) -> None:
        """Returns when it has seen everything."""
        self.process.start()
        self.process.wait_ready(lambda: is_ready(self._port), READY_SECONDS)


def takeover(sandbox: Sandbox, end: Callable[[], None], namespace: str, session: Mapping[str, Any]) -> float:
    """Seconds from the end of the leader to the rule for a session that is created at that moment."""
    last = sandbox.ec2.last()
    (wanted,) = session["spec"]["source"]["cidrs"]
    began = time.time()
    end()
    with sandbox.control_plane.api() as api:
        api.request("POST", f"/apis/{VERSION}/namespaces/{namespace}/accesssessions", dict(session))
    while time.time() < began + PATIENCE_SECONDS:
        for call in sandbox.ec2.log(last):
            if call["action"] == AUTHORIZE and any(rule["source"] == wanted for rule in call.get("rules", ())):
                done = datetime.fromisoformat(call["time"]) + timedelta(milliseconds=call["ms"])
                return done.timestamp() - began
        time.sleep(0.05)
    raise TimeoutError(f"nobody opens {wanted}")


def figures(told: float, died: float) -> list[Figure]:
    """By how the leader ended."""
    return [
        Figure("the leader is told to end: until its standby puts a rule", round(told, 2), "s", bar=MORE_SECONDS),
        Figure(
            "the leader dies: until its standby puts a rule",
            round(died, 2),
            "s",
            bar=LEASE_SECONDS + MORE_SECONDS,
        ),
    ]
