"""AWS's request throttling of EC2: one token bucket per account, Region and action.

Figures: "Request throttling for the Amazon EC2 API" in EC2's developer guide.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from gatepass.sandbox.ec2.query import AwsError

READS = ("Describe", "Get", "Search", "List")


@dataclass(frozen=True)
class Rate:
    """A bucket's capacity in requests, and its refill in requests per second."""

    capacity: float
    per_second: float


MUTATING = Rate(50, 5)
READING = Rate(100, 20)
EXCEPTIONS = {"CreateTags": Rate(100, 10)}


def rate_of(action: str) -> Rate:
    """The rate at which one account may call `action` in one Region."""
    return EXCEPTIONS.get(action) or (READING if action.startswith(READS) else MUTATING)


class Throttle:
    """The buckets of all accounts and Regions, while `on`; `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.on = True
        self._buckets: dict[tuple[str, str, str], tuple[float, float]] = {}

    def take(self, account: str, region: str, action: str) -> None:
        """Take one token. Raises AwsError RequestLimitExceeded if there is none; a refused call costs none."""
        if not self.on:
            return
        rate, now = rate_of(action), self._clock()
        tokens, since = self._buckets.get((account, region, action), (rate.capacity, now))
        tokens = min(rate.capacity, tokens + (now - since) * rate.per_second)
        if tokens < 1:
            self._buckets[account, region, action] = (tokens, now)
            raise AwsError(
                "RequestLimitExceeded",
                f"Request limit exceeded. Account {account} has been throttled on ec2:{action} because it exceeded "
                "its request rate limit.",
                503,
            )
        self._buckets[account, region, action] = (tokens - 1, now)
