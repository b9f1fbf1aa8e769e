"""Helm 4 on the chart."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gatepass.sandbox import binaries
from tests.chart.values_table import CHART
from tests.programs import HELM


class HelmError(Exception):
    """Helm refused; the text is what it said."""


class Helm:
    """The program, with state of its own in a folder, and with a cluster if there is one."""

    def __init__(self, folder: Path, kubeconfig: Path | None = None) -> None:
        self._program = binaries.resolve(HELM) / "helm"
        self._folder = folder
        own = {f"HELM_{name}_HOME": str(folder / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        self._env = {**os.environ, **own, "KUBECONFIG": str(kubeconfig or folder / "none")}

    def __call__(self, *words: str) -> str:
        """What it prints. Raises HelmError."""
        done = subprocess.run([str(self._program), *words], env=self._env, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise HelmError(done.stdout + done.stderr)
        return done.stdout

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start it and return at once."""
        return subprocess.Popen(
            [str(self._program), *words], env=self._env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def template(
        self,
        values: Mapping[str, Any] | None = None,
        *words: str,
        release: str = "gatepass",
        namespace: str = "gatepass-system",
    ) -> list[dict[str, Any]]:
        """The objects that `helm template` renders."""
        file = self.values(values or {})
        printed = self("template", release, str(CHART), "--namespace", namespace, "--values", str(file), *words)
        return [each for each in yaml.safe_load_all(printed) if each]

    def values(self, values: Mapping[str, Any]) -> Path:
        """A file with these values."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / "values.yaml"
        file.write_text(yaml.safe_dump(dict(values)))
        return file


def one(objects: list[dict[str, Any]], kind: str, name: str = "gatepass") -> dict[str, Any]:
    """The object of this kind and name."""
    (found,) = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found
