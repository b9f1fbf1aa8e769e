"""The engine's world, for its metrics."""

from tests.engine.conftest import cloud, world

__all__ = ["cloud", "world"]
