"""The watch of sessions goes on where it was, and asks nobody in vain all the time."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, cast

import pytest

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
Watch = Sequence[dict[str, Any] | Exception]
"""What one watch brings, until it ends or breaks."""


def told(what: str, name: str, version: int) -> dict[str, Any]:
    session = a_session(name, metadata={"uid": name, "resourceVersion": str(version)})
    return {"type": what, "object": session.to_json()}


def bookmark(version: int) -> dict[str, Any]:
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}


class Answers:
    """An API server that gives these watches, and after them some that end at once; it lists nobody, at 100, 200, ...

    `refused` is what it answers to the first listings.
    """

    def __init__(self, *watches: Watch, refused: Sequence[Exception] = ()) -> None:
        self.begun_at: list[str] = []
        self.listings = 0
        self._watches = list(watches)
        self._refused = list(refused)

    async def watch(self, path: str, version: str, *, silent_seconds: float) -> AsyncGenerator[dict[str, Any], None]:
        assert (path, silent_seconds) == (PATH, SILENT_SECONDS)
        self.begun_at.append(version)
        for each in self._watches.pop(0) if self._watches else ():
            if isinstance(each, Exception):
                raise each
            yield each

    async def listed(self, _path: str) -> AsyncGenerator[dict[str, Any], None]:
        self.listings += 1
        if self._refused:
            raise self._refused.pop(0)
        yield {"items": [], "metadata": {"resourceVersion": str(self.listings * 100)}}


async def followed_for(seconds: float, answers: Answers) -> set[str]:
    """The sessions that are known after so long, which is virtual time."""
    engine, api = an_engine(), cast("KubeApi", answers)
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await follow(api, PATH, followed_sessions(engine), Listing(api, engine, []), Watches())
    return {key.name for key in engine.store.sessions}


@pytest.mark.looptime
@pytest.mark.parametrize(
    "end",
    [
        pytest.param((), id="in order"),
        pytest.param((ClusterError("cut off"),), id="broken"),
        pytest.param((RefusedError(500, "etcd is away"),), id="refused"),
    ],
)
async def test_it_goes_on_where_it_was(end: Watch) -> None:
    first = [told("ADDED", "stays", 101), told("ADDED", "goes", 102), *end]
    answers = Answers(first, [told("DELETED", "goes", 103), *end], [bookmark(105), *end], [told("ADDED", "new", 106)])
    assert await followed_for(10, answers) == {"stays", "new"}
    assert answers.begun_at[:5] == ["100", "102", "103", "105", "106"]
    assert answers.listings == 1


@pytest.mark.looptime
async def test_who_is_told_that_its_version_is_too_old_lists_again_at_once() -> None:
    answers = Answers([told("ADDED", "gone meanwhile", 101), RefusedError(410, "too old")])
    assert await followed_for(0.5, answers) == set()
    assert answers.begun_at == ["100", "200"]


@pytest.mark.looptime
async def test_a_listing_that_fails_is_tried_again_and_not_all_the_time() -> None:
    down = (GoneError("no such kind"), ClusterError("cut off"))
    answers = Answers([told("ADDED", "it", 901)], refused=down * 5)
    assert await followed_for(9.5, answers) == set()
    assert answers.listings == 10
    assert await followed_for(2, answers) == {"it"}


@pytest.mark.looptime
@pytest.mark.parametrize("end", [(), (RefusedError(429, "busy"),)])
async def test_a_watch_that_ends_at_once_is_not_begun_anew_at_once(end: Watch) -> None:
    answers = Answers(*[end] * 100)
    await followed_for(30.5, answers)
    assert len(answers.begun_at) == 31
