"""Fences that no linter has."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gatepass.manifests import crds

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "operator").rglob("*.py")) + sorted((ROOT / "tests").rglob("*.py"))
LONGEST = 400
BANNED = {"utils", "util", "helpers", "helper", "misc", "common_utils", "manager"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short_and_well_named(source: Path) -> None:
    assert len(source.read_text().splitlines()) <= LONGEST
    assert source.stem not in BANNED


def test_the_operator_folder_does_not_shadow_the_standard_library() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_crds_are_what_the_models_say() -> None:
    written = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / "crds").glob("*.yaml")}
    assert written == {f"{crd['metadata']['name']}.yaml": crd for crd in crds()}, "run `make crds`"


def loaded_with(module: str) -> set[str]:
    """The modules that a fresh interpreter has loaded once it has imported this one; a part of a package loads it."""
    probe = f"import sys, {module}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(found.stdout.split())


def test_the_command_line_starts_without_the_heavy_imports() -> None:
    assert not loaded_with("gatepass.cli") & {"kopf", "boto3", "kubernetes", "moto", "fastapi", "sqlalchemy"}


def test_the_observer_shares_no_code_with_what_it_watches() -> None:
    parts = {f"gatepass.{part}" for part in ("core", "engine", "providers", "kube", "egress")}
    assert not loaded_with("tests.observer.__main__") & parts


def test_no_text_names_a_path_of_a_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    marks = ("/root" + "/", "/home" + "/", "/work" + "/main")
    for name in tracked.stdout.split():
        path = ROOT / name
        if path.is_file() and path.suffix not in (".png", ".sum", ".lock"):
            text = path.read_text(errors="ignore")
            assert not any(mark in text for mark in marks), name
