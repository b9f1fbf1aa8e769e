"""A collection in pages: the next one is on its way while one is read."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from gatepass.kube.api import _pages


class Server:
    """Has so many pages, each of which it works on for a while, and may fail at one of them."""

    def __init__(self, pages: int, fails_at: int | None = None) -> None:
        self._pages = pages
        self._fails_at = fails_at
        self.asked: list[int] = []
        self.working = 0

    async def ask(self, query: dict[str, str]) -> dict[str, Any]:
        number = int(query.get("continue", "0"))
        assert query["limit"] == "500"
        self.asked.append(number)
        self.working += 1
        try:
            await asyncio.sleep(1)
        finally:
            self.working -= 1
        if number == self._fails_at:
            raise ConnectionError
        following = {"continue": str(number + 1)} if number + 1 < self._pages else {}
        return {"items": [number], "metadata": following}


@pytest.mark.looptime
@pytest.mark.parametrize("pages", [1, 2, 5])
async def test_each_page_once_and_in_order(pages: int) -> None:
    server = Server(pages)
    assert [page["items"] async for page in _pages(server.ask, {})] == [[number] for number in range(pages)]
    assert server.asked == list(range(pages))


@pytest.mark.looptime
async def test_the_next_page_is_asked_for_before_one_is_read() -> None:
    server = Server(3)
    asked = [list(server.asked) async for _ in _pages(server.ask, {})]
    assert asked == [[0, 1], [0, 1, 2], [0, 1, 2]]


@pytest.mark.looptime
async def test_who_stops_reading_leaves_nothing_under_way() -> None:
    server = Server(3)
    async with aclosing(_pages(server.ask, {})) as pages:
        async for _ in pages:
            assert server.working == 1
            break
    assert server.working == 0


@pytest.mark.looptime
async def test_a_page_that_fails_is_told_to_whoever_reads() -> None:
    pages = _pages(Server(3, fails_at=1).ask, {})
    assert (await anext(pages))["items"] == [0]
    with pytest.raises(ConnectionError):
        await anext(pages)
