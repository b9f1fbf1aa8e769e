"""Calls of AWS, counted and timed."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

_SECONDS: Final = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 2, 3.5, 5, 7.5, 10)
"""EC2 answers a write in 0.2 to 1 s; the operator gives up after 10 s."""


class AwsCalls:
    """The provider tells it of every call."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "gatepass_aws_calls",
            "Calls of AWS by action, as IAM spells it, and outcome: ok, throttled, forbidden, not-found, terminal "
            "(refused for what it asks), retry (not sent, or refused for the moment) or lost (no answer).",
            ["action", "outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "gatepass_aws_call_seconds",
            "Seconds from sending a call of AWS to its answer, without the wait for a token.",
            ["action"],
            buckets=_SECONDS,
            registry=registry,
        )

    def told(self, action: str, outcome: str, seconds: float) -> None:
        """A call has ended."""
        self._calls.labels(action, outcome).inc()
        self._seconds.labels(action).observe(seconds)
