"""AWS's request buckets, kept on our side too, so that we wait instead of being throttled.

Sizes: Amazon EC2 developer guide, "Request throttling for the Amazon EC2 API".
"""

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final

from gatepass.core.plan import Write


@dataclass(slots=True)
class Bucket:
    """A token bucket: `size` calls at once, then `rate` calls a second. `now` is in seconds and never goes back."""

    size: float
    rate: float
    _tokens: float = field(init=False)
    _at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._tokens = self.size

    def tokens(self, now: float) -> float:
        """Calls that may go out at once; negative when so many are waiting already."""
        self._tokens = min(self.size, self._tokens + max(now - self._at, 0.0) * self.rate)
        self._at = max(self._at, now)
        return self._tokens

    def take(self, now: float, held: int = 0) -> float:
        """Take a token, and answer how many seconds to wait until it is there; `held` were taken and not used yet."""
        self._tokens = min(self.tokens(now), self.size - held) - 1
        return max(-self._tokens, 0.0) / self.rate

    def give_back(self, now: float) -> None:
        """A token that was taken and not used."""
        self._tokens = min(self.size, self.tokens(now) + 1)

    def drain(self, now: float) -> None:
        """AWS said that it is empty: somebody else takes from it too."""
        self._tokens = min(self.tokens(now), 0.0)


ACTIONS: Final[Mapping[Write, str]] = {
    "grants": "AuthorizeSecurityGroupIngress",
    "revokes": "RevokeSecurityGroupIngress",
    "relabels": "UpdateSecurityGroupRuleDescriptionsIngress",
    "retags": "CreateTags",
}
_LONGEST_WAIT_SECONDS: Final = 0.1
"""For a token, where a pass needs more than the one that it has come with; it holds up the whole group meanwhile."""
_MARGIN: Final = 0.9
"""Of AWS's size: calls overtake each other on their way, so that AWS may see more of them in a moment than we sent."""
_WRITES: Final = (50.0 * _MARGIN, 5.0)
_READS: Final = (100.0 * _MARGIN, 20.0)
_TAGS: Final = (100.0 * _MARGIN, 10.0)
_GRANT: Final = ACTIONS["grants"]
_REVOKE: Final = ACTIONS["revokes"]
_ACTIVE_SECONDS: Final = 10.0
_MOMENT_SECONDS: Final = 0.4
_BURST_SECONDS: Final = 3.0
"""For so long do many ends come at a rate that the refill alone could not follow."""
_DRAINED_SECONDS: Final = 0.7
"""Within so long what is left of a bucket may go, so that little of it is not gone at once."""
_SHARE: Final = 1.5
"""How much longer than its share of the refill a target waits at most, so that the bucket fills while all are busy."""
_KEPT_SECONDS: Final = 5.0
"""How long a token is kept for whoever has reserved it, and may not need it any more."""
_MISLED_SECONDS: Final = 10.0
"""How long after a call for what is gone the next one for what may be is made only while many are left."""
_PLENTY: Final = 20
"""Writes to each active target that the bucket still affords, from which on nobody waits."""


class ScarceError(Exception):
    """The call was not made: AWS lets too few out. One is kept for the next try."""


class Pacing:
    """The buckets of one account and Region, and how its targets share them."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}
        self._written: dict[Hashable, float] = {}
        self._revoked: dict[Hashable, float] = {}
        self._misled_at = float("-inf")
        self._reserved: dict[tuple[Hashable, str], float] = {}

    def bucket(self, action: str) -> Bucket:
        """The bucket of an EC2 action."""
        size = _TAGS if action == ACTIONS["retags"] else _READS if action.startswith("Describe") else _WRITES
        return self._buckets.setdefault(action, Bucket(*size))

    def reserve(self, target: Hashable, action: str, now: float) -> float:
        """Seconds until there is a token for the target's next call of this action, which is kept for it."""
        bucket, at = self.bucket(action), self._reserved.get((target, action), float("-inf"))
        if now > at + _KEPT_SECONDS:
            self._forget_unused(now)
            held = sum(each <= now for (_, of), each in self._reserved.items() if of == action)
            at = self._reserved[target, action] = now + bucket.take(now, held)
        elif at > now:  # earlier, when others have given theirs back
            at = self._reserved[target, action] = min(at, now + max(-bucket.tokens(now), 0.0) / bucket.rate)
        return max(at - now, 0.0)

    def give_back(self, target: Hashable, action: str, now: float) -> None:
        """The target does not need its token, if it has one."""
        at = self._reserved.pop((target, action), None)
        if at is not None and now < at + 2 * _KEPT_SECONDS:  # later the bucket has filled without it
            self.bucket(action).give_back(now)

    def _forget_unused(self, now: float) -> None:
        """What nobody has come for: while AWS does not answer, no call goes out, however often one is tried."""
        for target, action in [key for key, at in self._reserved.items() if now > at + _KEPT_SECONDS]:
            self.give_back(target, action, now)

    def reserve_all(
        self, target: Hashable, kinds: Collection[Write], now: float, *, doubtful: bool = False
    ) -> Mapping[Write, float]:
        """The same for one call of each kind, and none of any other, nor for revokes that leave it to others."""
        wanted = set(kinds) - ({"revokes"} if doubtful and self._leaves_to_others(now) else set())
        for kind in ACTIONS.keys() - wanted:
            self.give_back(target, ACTIONS[kind], now)
        return {kind: self.reserve(target, ACTIONS[kind], now) for kind in wanted}

    def spend(self, target: Hashable, action: str, now: float, *, doubtful: bool = False) -> float:
        """Seconds until the call may go out, a moment at most; the next one has to have a token of its own.

        Raises ScarceError when it would be longer; of a doubtful one, where reads have misled us, when others may
        need the call.
        """
        if doubtful and self._leaves_to_others(now):
            self.give_back(target, action, now)
            raise ScarceError
        wait = self.reserve(target, action, now)
        if wait > _LONGEST_WAIT_SECONDS:
            raise ScarceError
        del self._reserved[target, action]
        self.wrote(target, action, now)
        return wait

    def misled(self, now: float) -> None:
        """A rule that reads show is gone: it may not be the only one."""
        self._misled_at = now

    def _leaves_to_others(self, now: float) -> bool:
        """Where reads have misled us, does who may revoke in vain leave it to others, who may need the call?"""
        bucket = self.bucket(_REVOKE)
        return now < self._misled_at + _MISLED_SECONDS and bucket.tokens(now) < bucket.size / 2

    def wrote(self, target: Hashable, action: str, now: float) -> None:
        """A write to the target goes out."""
        self._written = {**_active(self._written, now), target: now}
        if action == _REVOKE:
            self._revoked = {**_active(self._revoked, now), target: now}

    def delay(self, target: Hashable, now: float) -> float:
        """Seconds that the target's next write had better wait for company; may be asked as often as one likes.

        A target alone never waits, nor one that has waited for its token. Many share the refill: the fewer writes to
        each of them the tokens afford, the nearer each keeps to its fair share, so that calls carry more rules instead
        of being more.
        """
        active = _active(self._written, now)
        waited = now <= self._reserved.get((target, _GRANT), float("-inf")) + _KEPT_SECONDS
        if target not in active or len(active) == 1 or waited:
            return 0.0
        tokens, rate = self._scarcest(now)
        scarcity = max(1.0 - tokens / len(active) / _PLENTY, 0.0)
        fair_share = _SHARE * len(active) / rate
        return max(self._written[target] + fair_share * scarcity - now, 0.0)

    def closing_delay(self, target: Hashable, now: float) -> float:
        """The same for a write that closes, which has to be soon; only those count that have closed something.

        What a full bucket still has when each of them has written once is spent evenly over a burst, as is the refill:
        nobody who ends in it is much later than others. More than that is there when it has filled again meanwhile.
        """
        active = _active(self._revoked, now)
        if target not in active or len(active) == 1:
            return 0.0
        bucket = self.bucket(_REVOKE)
        tokens = max(bucket.tokens(now), 0.0)
        evenly = max(bucket.size - len(active), tokens) / _BURST_SECONDS
        spent = min(evenly, tokens / _DRAINED_SECONDS) + bucket.rate
        return max(self._revoked[target] + len(active) / spent - now, 0.0)

    def patience(self, now: float) -> float:
        """Seconds without company after which a wait may end early.

        A moment while there is a token for each active target; the fewer there are, the nearer to its fair share.
        """
        active = len(_active(self._written, now))
        tokens, rate = self._scarcest(now)
        return _MOMENT_SECONDS + max(active - tokens, 0.0) / rate

    def _scarcest(self, now: float) -> tuple[float, float]:
        buckets = map(self.bucket, (_GRANT, _REVOKE))
        return min((bucket.tokens(now), bucket.rate) for bucket in buckets)


def _active(written: Mapping[Hashable, float], now: float) -> dict[Hashable, float]:
    return {target: at for target, at in written.items() if now - at < _ACTIVE_SECONDS}
