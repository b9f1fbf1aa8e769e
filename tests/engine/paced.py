"""Firewalls whose calls are as scarce as AWS's: the real buckets, and its batches of which it takes all or none."""

import asyncio
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.plan import Write
from gatepass.core.ports import Access, Gone, GrantOutcome, NewRule, RelabelOutcome, RevokeOutcome, Still, Unknown
from gatepass.core.rules import Rule, Stamp, Target
from gatepass.providers.aws_batches import each
from gatepass.providers.aws_errors import GONE, names_id
from gatepass.providers.aws_pacing import ACTIONS, Bucket, Pacing, ScarceError
from tests.engine.firewalls import SlowFirewalls

_OFTEN: Final = 0.2


class PacedFirewalls(SlowFirewalls):
    """All in one account and Region. EC2 does not know the ids in `unknown` yet; `sent` are the calls, and when.

    Each call that revokes takes `slow_revoke` seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pacing = Pacing()
        self.unknown: set[str] = set()
        self.slow_revoke = 0.0
        self.sent: list[tuple[float, Write]] = []

    def bucket(self, kind: Write) -> Bucket:
        """Of one kind of call."""
        return self.pacing.bucket(ACTIONS[kind])

    def sent_since(self, kind: Write, second: float) -> int:
        """How many calls of the kind went out from then on."""
        return sum(each == kind and at >= second for at, each in self.sent)

    @contextmanager
    def contended(self, kind: Write, seconds: float) -> Iterator[None]:
        """Others have reserved all calls of the kind for so many seconds ahead, at any time."""

        async def contend() -> None:
            bucket = self.bucket(kind)
            while True:
                now = asyncio.get_running_loop().time()
                while bucket.tokens(now) > -seconds * bucket.rate:
                    bucket.take(now)
                await asyncio.sleep(_OFTEN)

        contending = asyncio.create_task(contend())
        try:
            yield
        finally:
            contending.cancel()

    def reserve(self, target: Target, kinds: Collection[Write], *, doubtful: bool = False) -> Mapping[Write, float]:
        waits = self.pacing.reserve_all(target, kinds, asyncio.get_running_loop().time(), doubtful=doubtful)
        return {kind: math.ceil(wait * 1000) / 1000 for kind, wait in waits.items()}

    def spend(self, target: Target, kind: Write, *, doubtful: bool = False) -> None:
        """One call goes out; raises ScarceError when there is none to be had."""
        now = asyncio.get_running_loop().time()
        self.pacing.spend(target, ACTIONS[kind], now, doubtful=doubtful)
        self.sent.append((now, kind))

    async def grant(
        self, access: Access, target: Target, rules: Sequence[NewRule], stamp: Stamp, still: Still
    ) -> Mapping[Rule, GrantOutcome]:
        try:
            self.spend(target, "grants")
        except ScarceError:
            return {}
        return await super().grant(access, target, rules, stamp, still)

    async def revoke(
        self, access: Access, target: Target, ids: Sequence[str], *, doubtful: bool = False
    ) -> Mapping[str, RevokeOutcome]:
        async def remove(batch: list[str]) -> dict[str, RevokeOutcome]:
            self.spend(target, "revokes", doubtful=doubtful)
            await asyncio.sleep(self.slow_revoke)
            if gone := [id_ for id_ in batch if id_ in self.unknown or id_ not in self.rules(target)]:
                raise ProviderError(Failure.TERMINAL, GONE, f"no rule {gone[0]!r}")
            return dict(await super(PacedFirewalls, self).revoke(access, target, batch))

        def refused(error: ProviderError, _: str) -> RevokeOutcome:
            if error.reason != GONE:
                return error
            self.pacing.misled(asyncio.get_running_loop().time())
            return Gone()

        return await each(ids, remove, names=names_id, refused=refused, lost=Unknown())

    async def relabel(
        self, access: Access, target: Target, descriptions: Mapping[str, str]
    ) -> Mapping[str, RelabelOutcome]:
        try:
            self.spend(target, "relabels")
        except ScarceError:
            return {}
        return await super().relabel(access, target, descriptions)
