"""Nobody runs the benches every day: they are to be read at least, when what they stand on has moved."""

import importlib
import pkgutil

import bench
import pytest


@pytest.mark.parametrize(
    "name", [each.name for each in pkgutil.iter_modules(bench.__path__) if each.name != "__main__"]
)
def test_a_bench_is_in_step_with_what_it_measures(name: str) -> None:
    importlib.import_module(f"bench.{name}")
