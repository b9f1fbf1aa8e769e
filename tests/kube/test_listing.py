"""Who follows the API server knows what is there now, and lists again only what he has not heard of."""

import asyncio
from pathlib import Path

import pytest
import structlog

from gatepass.kube.listing import is_up_to_date, versions_in
from gatepass.kube.watches import Watches
from gatepass.sandbox.environment import Sandbox
from tests.kube.follower import Follower, Resources, a_follower, eventually
from tests.kube.wire import Wire

NAMESPACES = "/api/v1/namespaces"
KINDS = "/apis/gatepass.dev/v1alpha1"


@pytest.mark.parametrize(
    ("known", "heard", "there", "up_to_date"),
    [
        pytest.param({3, 5}, {3, 5}, {3, 5}, True, id="nothing has happened"),
        pytest.param({3, 11}, {3, 5, 11}, {3, 5}, True, id="one has changed since"),
        pytest.param({3, 5, 12}, {3, 5, 12}, {3, 5}, True, id="one has come since"),
        pytest.param({3}, {3, 5}, {3, 5}, True, id="one has gone since"),
        pytest.param({3}, {3}, {3, 5}, False, id="one has not come yet"),
        pytest.param({3, 5}, {3, 5}, {3, 9}, False, id="a change has not come yet"),
        pytest.param({3, 5}, {3, 5}, {3}, False, id="a deletion has not come yet"),
        pytest.param({3, 11}, {3, 11}, {3, 9}, False, id="a later one has come, and who knows of whom"),
        pytest.param(set(), set(), set(), True, id="there is nothing"),
    ],
)
def test_nothing_is_missing(known: set[int], heard: set[int], there: set[int], up_to_date: bool) -> None:
    assert is_up_to_date(known, heard, there, at=10) is up_to_date


def test_a_crd_of_an_earlier_gatepass_tells_no_versions() -> None:
    phase, version = {"name": "Phase"}, {"name": "Version"}
    assert versions_in({"columnDefinitions": [phase], "rows": [{"cells": ["Active"]}]}) is None
    assert versions_in({"columnDefinitions": [phase, version], "rows": [{"cells": ["Active", "17"]}]}) == {17}
    assert versions_in({"columnDefinitions": [phase, version], "rows": None}) == set()
    assert versions_in({"items": []}) is None, "something between us and the API server that knows no tables"


async def listed_to_catch_up(follower: Follower) -> list[str]:
    """The collections that had to be listed in full."""
    with structlog.testing.capture_logs() as lines:
        await follower.listing.catch_up_at_last()
    (told,) = [line["listed"] for line in lines if line["event"] == "caught up"]
    return list(told)


async def test_what_the_watches_have_brought_is_not_listed_again(sandbox: Sandbox, tmp_path: Path) -> None:
    wire = Wire(int(sandbox.control_plane.server.rpartition(":")[2]))
    resources = Resources(sandbox)
    await asyncio.to_thread(resources.make, "stays", "goes")
    async with wire.up(), a_follower(sandbox, wire, tmp_path) as follower:
        await follower.listing.read()
        async with follower.watching(Watches()) as engine:
            await asyncio.to_thread(resources.remove, "goes")
            await asyncio.to_thread(resources.make, "comes")
            await eventually(lambda: resources.known_to(engine) == {"stays", "comes"}, "the news")
            assert await listed_to_catch_up(follower) == [NAMESPACES]


@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize("change", ["make", "remove"])
async def test_what_the_watches_have_not_brought_is_listed(
    sandbox: Sandbox, tmp_path: Path, change: str, everywhere: bool
) -> None:
    """Nobody watches here: so a leader that was cut off from its watches would be told that all is as it was."""
    wire = Wire(int(sandbox.control_plane.server.rpartition(":")[2]))
    resources = Resources(sandbox)
    await asyncio.to_thread(resources.make, "stays", "goes")
    namespaces = [] if everywhere else [resources.namespace]
    async with wire.up(), a_follower(sandbox, wire, tmp_path, namespaces) as follower:
        await follower.listing.read()
        assert await listed_to_catch_up(follower) == [NAMESPACES]
        await asyncio.to_thread(getattr(resources, change), "comes" if change == "make" else "goes")
        assert await listed_to_catch_up(follower) == [
            NAMESPACES,
            f"{KINDS}/protectedresources" if everywhere else resources.path,
        ]
        left = {"stays", "goes", "comes"} if change == "make" else {"stays"}
        assert resources.known_to(follower.engine) == left
