"""The API against its own OpenAPI document: schemathesis with all of its checks."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.rest.organisation import ELSEWHERE, Organisation

SECONDS = 300


@pytest.fixture(scope="module")
def door(org: Organisation) -> None:
    org.door()


def test_the_document(org: Organisation) -> None:
    told = org.caller().get("/openapi.json")
    assert told.status_code == 200
    document = told.json()
    assert document["openapi"].startswith("3.1")
    assert "422" not in str(document["paths"])
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["responses"].keys() & {"200", "204"}, f"{method} {path}"


def test_the_page(org: Organisation) -> None:
    assert "/api/v1/openapi.json" in org.caller().get("/docs").text


@pytest.mark.usefixtures("door")
@pytest.mark.parametrize("who", ["nobody", "key", "token"])
def test_every_check_of_schemathesis(org: Organisation, tmp_path: Path, who: str) -> None:
    caller: httpx.Client = org.caller()
    headers = {"X-Forwarded-For": ELSEWHERE} | {
        "nobody": {},
        "key": {"X-API-Key": org.key()[0] if who == "key" else ""},
        "token": {"Authorization": f"Bearer {org.token}"},
    }[who]
    shown = [part for name, value in headers.items() for part in ("--header", f"{name}: {value}")]
    program, bounds = Path(sys.executable).parent / "schemathesis", Path(__file__).with_name("schemathesis.toml")
    command = [str(program), "--config-file", str(bounds), "run", f"{caller.base_url}openapi.json"]
    command += ["--checks", "all", "--max-examples", "12", "--seed", "1", "--no-color", "--warnings", "off", *shown]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
