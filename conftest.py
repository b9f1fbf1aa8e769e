"""What holds for every test."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("gatepass", deadline=None)  # a machine that is busy is no defect
settings.load_profile("gatepass")


@pytest.fixture(scope="session", autouse=True)
def _loop_to_go_back_to() -> Iterator[None]:
    """pytest-asyncio goes back to the loop that was set before; without one it would make one and never close it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()
