"""Settings that only make sense together, and that never show themselves."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from gatepass.core.types.common import NEVER
from gatepass.settings import Settings

URL = "postgresql://gatepass:hunter2@db/gatepass"


def given(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(f"GATEPASS_{name.upper()}", value)
    return Settings()


def test_there_is_no_audit_trail_by_default() -> None:
    assert (Settings().database_url, Settings().audit_required) == (None, False)


def test_an_audit_trail(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = given(
        monkeypatch, database_url=URL, audit_key_file="keys", audit_required="true", audit_retention="Never"
    )
    assert settings.audit_key_file == Path("keys")
    assert settings.audit_retention == NEVER
    assert "hunter2" not in f"{settings!r} {settings}"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"database_url": URL}, "needs GATEPASS_AUDIT_KEY_FILE"),
        ({"audit_required": "true"}, "needs GATEPASS_DATABASE_URL"),
        ({"database_url": "mysql://u:hunter2@h/d", "audit_key_file": "keys"}, "must begin with sqlite:/// or"),
        ({"rate_limit_storage": "memcached://u:hunter2@h"}, "must begin with valkey://"),
        ({"rate_limit_storage": "redis:///hunter2"}, "name a host"),
        ({"audit_retention": "1y"}, "is not a duration"),
        ({"audit_retention": "59m"}, "must be 1h at least"),
    ],
)
def test_what_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, values: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said) as refused:
        given(monkeypatch, **values)
    told = [problem["msg"] for problem in refused.value.errors()]  # what the command line prints
    assert not any("hunter2" in each for each in told)


@pytest.mark.parametrize("scheme", ["valkey", "valkeys", "redis", "rediss"])
def test_a_shared_limiter(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    settings = given(monkeypatch, rate_limit_storage=f"{scheme}://:hunter2@cache:6379/0")
    assert settings.rate_limit_storage is not None
    assert "hunter2" not in f"{settings!r} {settings}"


def test_gatepass_asks_its_own_api_too_what_it_is_seen_as(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given(monkeypatch, echo_urls="https://a.example").echo_services == ("https://a.example",)
    assert given(monkeypatch, public_url="https://gatepass.example.com").echo_services == (
        "https://a.example",
        "https://gatepass.example.com/api/v1/detect-ip",
    )
