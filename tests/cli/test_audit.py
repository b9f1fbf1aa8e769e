"""`gatepass audit`: what an auditor runs."""

import asyncio
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import text
from typer.testing import CliRunner

from gatepass.audit.trail import Trail
from gatepass.cli import app
from tests.audit.entries import KEY, NEXT_KEY, an_entry, as_owner


def audit(*words: str) -> Result:
    return CliRunner().invoke(app, ["audit", *words])


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A trail of five entries, in the settings."""
    url, keys = f"sqlite:///{tmp_path}/audit.db", tmp_path / "keys"
    keys.write_text(KEY)
    monkeypatch.setenv("GATEPASS_DATABASE_URL", url)
    monkeypatch.setenv("GATEPASS_AUDIT_KEY_FILE", str(keys))

    async def fill() -> None:
        trail = Trail(url, keys)
        await trail.migrate()
        await trail.append([an_entry(number) for number in range(5)])
        await trail.close()

    asyncio.run(fill())
    return url


def change(url: str, statement: str) -> None:
    engine = as_owner(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def test_a_whole_chain(url: str) -> None:
    done = audit("verify")
    assert done.exit_code == 0
    assert "entries 1 to 5 are as they were written, and none is missing between them" in done.stdout


def test_the_first_bad_entry_is_named(url: str) -> None:
    change(url, "UPDATE gatepass_audit SET actor = 'mallory' WHERE seq >= 3")
    done = audit("verify")
    assert done.exit_code == 1
    assert done.stderr.startswith("BROKEN at entry 3: its seal does not fit")


def test_an_export_is_proven_without_a_database(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "audit.jsonl"
    assert audit("export", "-o", str(file)).exit_code == 0
    assert audit("export").stdout.splitlines()[:5] == file.read_text().splitlines()[:5]
    monkeypatch.delenv("GATEPASS_DATABASE_URL")
    assert "entries 1 to 5" in audit("verify", str(file)).stdout
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    cut = audit("verify", str(file))
    assert (cut.exit_code, cut.stderr) == (
        1,
        "BROKEN at entry 6: the end is missing: no signed checkpoint is the last line\n",
    )
    file.write_text("".join(lines).replace('"ci"', '"cd"', 1))
    assert audit("verify", str(file)).exit_code == 1


def test_a_checkpoint_kept_elsewhere_shows_a_cut_end(url: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text(audit("checkpoint").stdout)
    assert audit("verify", "--checkpoint", str(kept)).exit_code == 0
    change(url, "DELETE FROM gatepass_audit WHERE seq = 5")
    assert audit("verify").exit_code == 0
    done = audit("verify", "--checkpoint", str(kept))
    assert done.exit_code == 1
    assert "entry 5: it is missing" in done.stderr
    kept.write_text("nothing\n")
    assert audit("verify", "--checkpoint", str(kept)).exit_code == 2


def test_an_empty_trail_proves_nothing(url: str) -> None:
    change(url, "DELETE FROM gatepass_audit")
    assert audit("verify").exit_code == 1


def test_what_cannot_be_read_is_said_in_a_line(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.write_text(NEXT_KEY)
    assert "does not have" in audit("verify", "--key-file", str(other)).stderr
    other.write_text("short")
    assert (audit("verify", "--key-file", str(other)).exit_code) == 2
    assert audit("export", "--after", "77").exit_code == 1
    monkeypatch.setenv("GATEPASS_DATABASE_URL", f"sqlite:///{tmp_path}/none/audit.db")
    done = audit("verify")
    assert (done.exit_code, done.stderr) == (2, "gatepass audit: unable to open database file\n")
    monkeypatch.setenv("GATEPASS_DATABASE_URL", "mysql://u:hunter2@h/d")
    done = audit("verify")
    assert done.exit_code == 2
    assert "hunter2" not in done.stderr
