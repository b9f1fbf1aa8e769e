"""What Prometheus reads: counted where it happens, and otherwise looked up in the engine's state when it asks."""

from collections.abc import Callable, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics

from gatepass import __version__
from gatepass.core.types.session import AccessSession, AccessSessionStatus
from gatepass.engine.insight import Insight
from gatepass.metrics.calls import AwsCalls
from gatepass.metrics.collector import EngineCollector, SelfCollector
from gatepass.metrics.sessions import SessionTimes


class Metrics:
    """All metrics of one process. What is asked here is asked again at each scrape.

    `leading` answers whether this process works on the firewalls.
    """

    def __init__(self, clock_offset: Callable[[], float], watch_ages: Callable[[], Mapping[str, float]]) -> None:
        disable_created_metrics()
        self.leading: Callable[[], bool] = lambda: False
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(SelfCollector(__version__, clock_offset, lambda: self.leading(), watch_ages))
        self.aws = AwsCalls(self.registry)

    def follow(
        self, insight: Insight, now: Callable[[], datetime]
    ) -> Callable[[AccessSession, AccessSessionStatus], None]:
        """Show an engine's state from now on; answers what wants to hear of every status that is written."""
        self.registry.register(EngineCollector(insight.snapshot))
        return SessionTimes(self.registry, now, insight.lateness).written
