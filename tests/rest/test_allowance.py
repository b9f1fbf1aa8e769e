"""The allowance of requests: counted by one replica, by several together, and when the server that counts is away."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from gatepass.rest import allowance
from gatepass.rest.allowance import Allowance
from tests.rest.valkey import Valkey


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for an answer waits long, and asks no server again that has not given one."""
    monkeypatch.setattr(allowance, "ANSWER_SECONDS", 10.0)
    monkeypatch.setattr(allowance, "AGAIN_SECONDS", 60.0)


@pytest.fixture
async def replicas(valkey: Valkey) -> AsyncIterator[tuple[Allowance, Allowance]]:
    one, two = Allowance(3, valkey.url), Allowance(3, valkey.url)
    async with aclosing(one), aclosing(two):
        yield one, two


@pytest.fixture
def at_once(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is asked again by the next request, and not only after some seconds."""
    monkeypatch.setattr(allowance, "AGAIN_SECONDS", 0.0)


async def taken(by: Allowance, who: str) -> tuple[bool, int]:
    allowed, stats = await by.take(who)
    return allowed, stats.remaining


async def test_one_counts_by_itself() -> None:
    one, other = Allowance(3), Allowance(3)
    assert [await taken(one, "a") for _ in range(4)] == [(True, 2), (True, 1), (True, 0), (False, 0)]
    assert await taken(one, "b") == (True, 2)
    assert await taken(other, "a") == (True, 2)


async def test_several_count_together(replicas: tuple[Allowance, Allowance]) -> None:
    one, two = replicas
    assert [await taken(each, "a") for each in (one, two, one, two, one)] == [
        (True, 2),
        (True, 1),
        (True, 0),
        (False, 0),
        (False, 0),
    ]
    assert await taken(two, "2001:db8::/64") == (True, 2)


@pytest.mark.parametrize("how", ["stop", "freeze"])
async def test_without_the_server_each_goes_by_what_it_has_counted(
    replicas: tuple[Allowance, Allowance], valkey: Valkey, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = replicas
    for each in (one, one, two):
        assert (await taken(each, "a"))[0]
    if how == "freeze":
        monkeypatch.setattr(allowance, "ANSWER_SECONDS", 0.5)
    with capture_logs() as said:
        getattr(valkey, how)()
        # Not without a bound, and what the replica has seen before is not forgotten.
        assert [await taken(one, "a") for _ in range(3)] == [(True, 0), (False, 0), (False, 0)]
        assert [(await taken(two, "a"))[0] for _ in range(3)] == [True, True, False]
    assert [entry["log_level"] for entry in said] == ["warning", "warning"], "once by each"
    if how == "freeze":
        valkey.thaw()


async def test_when_it_does_not_answer_only_one_request_finds_out(
    replicas: tuple[Allowance, Allowance], valkey: Valkey
) -> None:
    one, _ = replicas
    await one.take("a")
    valkey.stop()
    await one.take("a")
    valkey.start()
    # Not asked again so soon: the server, which has forgotten everything, would say 2.
    assert await taken(one, "a") == (True, 0)


@pytest.mark.usefixtures("at_once")
async def test_it_is_asked_again(replicas: tuple[Allowance, Allowance], valkey: Valkey) -> None:
    one, two = replicas
    await one.take("a")
    valkey.stop()
    with capture_logs() as said:
        for _ in range(3):
            await one.take("a")
        valkey.start()
        assert [await taken(each, "a") for each in (one, two)] == [(True, 2), (True, 1)]
    assert [entry["log_level"] for entry in said] == ["warning", "info"]


async def test_a_password_is_not_told(tmp_path: Path, valkey: Valkey) -> None:
    wrong = Allowance(3, valkey.url.replace("//", "//:hunter2@"))
    with capture_logs() as said:
        async with aclosing(wrong):
            assert await taken(wrong, "a") == (True, 2)
    (entry,) = said
    told: dict[str, Any] = dict(entry)
    assert told["log_level"] == "warning"
    assert "hunter2" not in f"{told} {wrong!r}"
