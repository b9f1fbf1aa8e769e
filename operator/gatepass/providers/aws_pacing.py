"""AWS's request buckets, kept on our side too, so that we wait instead of being throttled.

Sizes: https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final


@dataclass(slots=True)
class Bucket:
    """A token bucket: `size` calls at once, then `rate` calls a second. `now` is in seconds and never goes back."""

    size: float
    rate: float
    _tokens: float = field(init=False)
    _at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._tokens = self.size

    def level(self, now: float) -> float:
        """How full it is, from 0 (or less, with calls already waiting) to 1."""
        self._refill(now)
        return self._tokens / self.size

    def take(self, now: float) -> float:
        """Take a token, and answer how many seconds to wait until it is there."""
        self._refill(now)
        self._tokens -= 1
        return max(-self._tokens, 0.0) / self.rate

    def drain(self, now: float) -> None:
        """AWS said that it is empty: somebody else takes from it too."""
        self._refill(now)
        self._tokens = min(self._tokens, 0.0)

    def _refill(self, now: float) -> None:
        self._tokens = min(self.size, self._tokens + max(now - self._at, 0.0) * self.rate)
        self._at = max(self._at, now)


_MUTATING: Final = (50.0, 5.0)
_SIZES: Final = {
    "CreateTags": (100.0, 10.0),
    "DescribeSecurityGroups": (100.0, 20.0),
    "DescribeSecurityGroupRules": (100.0, 20.0),
    "DescribeManagedPrefixLists": (100.0, 20.0),
}
_ACTIVE_SECONDS: Final = 10.0
_COMFORTABLE: Final = 0.2


class Pacing:
    """The buckets of one account and Region, and how its targets share them."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}
        self._written: dict[Hashable, float] = {}

    def bucket(self, action: str) -> Bucket:
        """The bucket of an action."""
        return self._buckets.setdefault(action, Bucket(*_SIZES.get(action, _MUTATING)))

    def wrote(self, target: Hashable, now: float) -> None:
        """A write to the target goes out."""
        self._written[target] = now

    def delay(self, target: Hashable, now: float) -> float:
        """Seconds that the target's next write had better wait for company.

        A target alone never waits while tokens are there. Many at a time share the refill: the emptier the bucket,
        the nearer each keeps to its fair share of it, so that calls carry more rules instead of being more.
        """
        last = self._written.get(target)
        if last is None:
            return 0.0
        self._written = {key: at for key, at in self._written.items() if now - at < _ACTIVE_SECONDS}
        others = len(self._written.keys() - {target})
        level, rate = min(
            (bucket.level(now), bucket.rate)
            for bucket in map(self.bucket, ("AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"))
        )
        scarcity = min(max(1.0 - level, 0.0) / (1.0 - 2 * _COMFORTABLE), 1.0)
        spacing = others / rate * scarcity + (0.0 if level >= _COMFORTABLE else 1.0 / rate)
        return max(last + spacing - now, 0.0)
