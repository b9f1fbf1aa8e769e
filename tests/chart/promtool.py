"""Prometheus's own tool, which checks and tests alerts."""

import subprocess
from pathlib import Path

from gatepass.sandbox import binaries
from gatepass.sandbox.download import Download

_VERSION = "3.5.2"
_MODULE_VERSION = "v0.305.2"
"""The same release, as Go counts it."""
_RELEASES = f"https://github.com/prometheus/prometheus/releases/download/v{_VERSION}"


def _downloads(system: str, arch: str) -> tuple[Download, ...]:
    folder = f"prometheus-{_VERSION}.{system}-{arch}"
    return (Download("promtool", f"{_RELEASES}/{folder}.tar.gz", f"{_RELEASES}/sha256sums.txt", f"{folder}/promtool"),)


PROMTOOL = binaries.Bundle(
    name="promtool",
    version=_MODULE_VERSION,
    module=Path(__file__).resolve().parents[2] / "tools" / "promtool",
    packages={"promtool": "github.com/prometheus/prometheus/cmd/promtool"},
    ldflags=(),
    downloads=_downloads,
)


class PromtoolError(Exception):
    """It found something; the text is what it said."""


def promtool(*words: str, stdin: str | None = None) -> str:
    """What it prints. Raises PromtoolError."""
    program = binaries.resolve(PROMTOOL) / "promtool"
    done = subprocess.run([program, *words], input=stdin, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise PromtoolError(done.stdout + done.stderr)
    return done.stdout + done.stderr
