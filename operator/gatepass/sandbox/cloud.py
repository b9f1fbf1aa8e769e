"""The EC2 emulator as a process of its own, with the variables that lead AWS clients to it."""

import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from gatepass.sandbox.ec2.client import Ec2Control
from gatepass.sandbox.ec2.faults import Fault
from gatepass.sandbox.processes import Process, free_ports

REGION = "eu-central-1"
ACCOUNT = "123456789012"
ACCESS_KEY = "AKIAGATEPASSSANDBOX1"
READY_SECONDS = 60.0

# What of the caller's environment would lead an AWS client past the emulator, or to other credentials.
MISLEADING = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_ENDPOINT_URL_EC2",
    "AWS_ENDPOINT_URL_SCHEDULER",
    "AWS_ENDPOINT_URL_STS",
    "AWS_ENDPOINT_URL_SERVICE_QUOTAS",
)


class Cloud:
    """moto behind the strict shim on a free loopback port; logs and the call log go to `folder`.

    `start` and `wait_ready` are apart because it needs two seconds that others can use; a `with` does both.
    """

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self.endpoint_url = f"http://127.0.0.1:{port}"
        self.call_log = folder / "ec2-calls.jsonl"
        self.control = Ec2Control(self.endpoint_url, REGION, ACCOUNT)
        self.env = {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": secrets.token_urlsafe(30),
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        command = [sys.executable, "-m", "gatepass.sandbox.ec2", str(port), str(self.call_log)]
        # moto uses boto3 itself, which stops at a profile that does not exist
        inherited = {name: value for name, value in os.environ.items() if name not in MISLEADING}
        self._process = Process("ec2", command, folder / "ec2.log", {**inherited, **self.env})

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, without waiting."""
        self._process.start()

    def wait_ready(self, faults: Sequence[Fault] = (), seed: int = 0) -> None:
        """Wait until it answers, then put `faults` in force. Raises SandboxError with the end of its log."""
        self._process.wait_ready(self.control.ready, READY_SECONDS)
        self.control.set_faults(*faults, seed=seed)

    def stop(self) -> None:
        """End it; what it held is gone."""
        self._process.stop()
