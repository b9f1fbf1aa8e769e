"""Prometheus's own tool, which checks and tests alerts."""

import subprocess

from gatepass.sandbox import binaries
from tests.programs import PROMTOOL


class PromtoolError(Exception):
    """It found something; the text is what it said."""


def promtool(*words: str, stdin: str | None = None) -> str:
    """What it prints. Raises PromtoolError."""
    program = binaries.resolve(PROMTOOL) / "promtool"
    done = subprocess.run([program, *words], input=stdin, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise PromtoolError(done.stdout + done.stderr)
    return done.stdout + done.stderr
