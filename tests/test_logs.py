"""Logs for machines and for people."""

import json
import subprocess
import sys

SCRIPT = """
import logging, sys, structlog
from gatepass import logs
logs.configure(sys.argv[1], "info")
structlog.contextvars.bind_contextvars(session="ci/it-1")
structlog.get_logger("gatepass").info("opened", rules=["sg-0aaa/sgr-1"])
structlog.get_logger("gatepass").debug("not said")
logging.getLogger("kopf").warning("of %s", "others")
logging.getLogger("botocore").info("signed with a key")
logging.getLogger("uvicorn.error").info("on %s", "8443", extra={"color_message": "on %s, in colours"})
"""


def said(log_format: str) -> list[str]:
    """What is on stderr, which is no terminal."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, log_format], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_for_machines() -> None:
    for log_format in ("json", "auto"):
        opened, others, server = map(json.loads, said(log_format))
        assert opened.pop("timestamp").endswith("Z")
        assert opened == {"event": "opened", "level": "info", "session": "ci/it-1", "rules": ["sg-0aaa/sgr-1"]}
        assert (others["event"], others["level"], others["session"]) == ("of others", "warning", "ci/it-1")
        assert (server["event"], server.keys()) == ("on 8443", opened.keys() - {"rules"} | {"timestamp"})


def test_lines_for_people() -> None:
    opened, others, _ = said("console")
    assert "opened" in opened
    assert "session=ci/it-1" in opened
    assert "{" not in opened
    assert "of others" in others
