"""The watch of sessions goes on where it was, and asks nobody in vain all the time."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, cast

import pytest
import structlog

from gatepass.core.gateway import RefusedError
from gatepass.core.ports import ClusterError, GoneError
from gatepass.core.types.session import AccessSession
from gatepass.kube.api import KubeApi, path_of
from gatepass.kube.handlers import followed_sessions
from gatepass.kube.listing import Listing
from gatepass.kube.sessions import follow
from gatepass.kube.watches import SILENT_SECONDS, Watches
from tests.core.builders import a_session
from tests.kube.follower import an_engine

PATH = path_of(AccessSession)
LONG = 300.0
"""Seconds after which an API server ends a watch that goes well."""
STAYS = "stays"
Watch = Sequence[dict[str, Any] | str | Exception]
"""What one watch brings, until it ends or breaks; one that STAYS brings nothing until the test ends it."""


def told(what: str, name: str, version: int) -> dict[str, Any]:
    session = a_session(name, metadata={"uid": name, "resourceVersion": str(version)})
    return {"type": what, "object": session.to_json()}


def bookmark(version: int) -> dict[str, Any]:
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}


class Answers:
    """An API server that gives these watches, and then nothing more; it lists nobody, at 100, 200, ...

    `refused` is what it answers to the first listings, each of which takes it so many `seconds`.
    """

    def __init__(self, *watches: Watch, refused: Sequence[Exception] = (), seconds: float = 0.0) -> None:
        self.begun: list[tuple[float, str]] = []
        self.listings = 0
        self._watches = list(watches)
        self._refused = list(refused)
        self._seconds = seconds
        self._over = asyncio.Event()

    def end(self) -> None:
        """The API server ends the watch that is open."""
        self._over.set()
        self._over = asyncio.Event()

    @property
    def begun_at(self) -> list[str]:
        """The versions at which watches have begun."""
        return [version for _, version in self.begun]

    async def watch(self, path: str, version: str, *, silent_seconds: float) -> AsyncGenerator[dict[str, Any], None]:
        assert (path, silent_seconds) == (PATH, SILENT_SECONDS)
        self.begun.append((asyncio.get_running_loop().time(), version))
        for each in self._watches.pop(0) if self._watches else (STAYS,):
            if isinstance(each, Exception):
                raise each
            if isinstance(each, str):
                await self._over.wait()
            else:
                yield each

    async def listed(self, _path: str) -> AsyncGenerator[dict[str, Any], None]:
        self.listings += 1
        if self._refused:
            with suppress(TimeoutError):  # nothing comes until the client gives up
                async with asyncio.timeout(self._seconds):
                    await asyncio.Event().wait()
            raise self._refused.pop(0)
        yield {"items": [], "metadata": {"resourceVersion": str(self.listings * 100)}}


class Following:
    """An engine that follows the sessions of such an API server, from a listing or without one."""

    def __init__(self, answers: Answers) -> None:
        self.api = cast("KubeApi", answers)
        self.engine = an_engine()
        self.listing = Listing(self.api, self.engine, [])
        self.watches = Watches(monotonic=asyncio.get_running_loop().time)

    async def for_(self, seconds: float) -> set[str]:
        """The sessions that are known after so long, which is virtual time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await follow(self.api, PATH, followed_sessions(self.engine), self.listing, self.watches)
        return {key.name for key in self.engine.store.sessions}


@pytest.mark.looptime
@pytest.mark.parametrize(
    "end",
    [
        pytest.param((), id="in order"),
        pytest.param((ClusterError("cut off"),), id="broken"),
        pytest.param((RefusedError(429, "busy"),), id="refused, as it is busy"),
    ],
)
async def test_it_goes_on_where_it_was(end: Watch) -> None:
    first = [told("ADDED", "stays", 101), told("ADDED", "goes", 102), *end]
    answers = Answers(first, [told("DELETED", "goes", 103), *end], [bookmark(105), *end], [told("ADDED", "new", 106)])
    assert await Following(answers).for_(10) == {"stays", "new"}
    assert answers.begun_at == ["100", "102", "103", "105", "106"]
    assert answers.listings == 1


@pytest.mark.looptime
async def test_it_begins_where_the_listing_has_read() -> None:
    answers = Answers()
    following = Following(answers)
    await following.listing.again(PATH)
    await following.for_(10)
    assert (answers.begun_at, answers.listings) == (["100"], 1)


@pytest.mark.looptime
async def test_a_watch_that_has_lasted_is_begun_anew_at_once() -> None:
    answers = Answers([STAYS], [STAYS, ClusterError("silent")])
    for time in (LONG, 2 * LONG, 3 * LONG):
        asyncio.get_running_loop().call_at(time, answers.end)
    await Following(answers).for_(1000)
    assert answers.begun == [(0.0, "100"), (LONG, "100"), (2 * LONG, "100"), (3 * LONG, "100")]


@pytest.mark.looptime
@pytest.mark.parametrize("status", [403, 404, 410, 500])
async def test_who_was_refused_may_have_missed_something_and_lists_again(status: int) -> None:
    answers = Answers([told("ADDED", "gone meanwhile", 101), RefusedError(status, "no")])
    following = Following(answers)
    await following.listing.again(PATH)
    assert await following.for_(5) == set()
    at_once = 0.0 if status == 410 else 1.0
    assert answers.begun == [(0.0, "100"), (at_once, "200")]


@pytest.mark.looptime
@pytest.mark.parametrize("seconds", [0.0, 1.5])
async def test_a_listing_that_fails_is_tried_again_and_not_all_the_time(seconds: float) -> None:
    down = (GoneError("no such kind"), ClusterError("cut off"))
    answers = Answers([told("ADDED", "it", 901)], refused=down * 300, seconds=seconds)
    following = Following(answers)
    following.watches.begun(PATH, watch=True)  # one that was told that it is too old
    with structlog.testing.capture_logs() as lines:
        assert await following.for_(400) == set()
    assert answers.listings == 400 // (seconds + 1)
    assert {line.get("error") for line in lines} >= {"no such kind", "cut off"}
    assert following.watches.dead() == [], "it is the API server that does not answer"


@pytest.mark.looptime
@pytest.mark.parametrize("end", [(), (RefusedError(429, "busy"),), (RefusedError(410, "too old"),)])
async def test_a_watch_that_ends_at_once_is_not_begun_anew_at_once(end: Watch) -> None:
    answers = Answers(*[end] * 100)
    await Following(answers).for_(30.5)
    assert len(answers.begun) == 31


@pytest.mark.looptime
async def test_a_defect_is_not_passed_over_in_silence() -> None:
    answers = Answers([{"type": "ADDED", "object": {"metadata": {"resourceVersion": "101"}}}])
    with pytest.raises(KeyError):
        await Following(answers).for_(10)
