"""docs/metrics.md tells every metric in the words of its HELP text."""

import re
from pathlib import Path

import pytest

from gatepass.metrics import Metrics
from tests.engine.world import LoopClock, World

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.mark.asyncio
@pytest.mark.looptime
async def test_every_metric_is_documented(world: World) -> None:
    metrics = Metrics(lambda: 0.0, lambda: {"accesssessions": 0.0})
    async with world.running() as engine:
        metrics.follow(engine.insight, LoopClock().now)
        told = {
            (each.name + {"counter": "_total", "info": "_info"}.get(each.type, ""), each.type, each.documentation)
            for each in metrics.registry.collect()
            if each.name.startswith("gatepass_")
        }
    rows = re.findall(r"^\| `(\w+)[^`]*` \| (\w+) \| (.+) \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(told)
