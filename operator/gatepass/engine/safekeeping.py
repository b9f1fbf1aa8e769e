"""The Secrets that resources sign in with: kept while they are needed to close, else let go when they are deleted."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from gatepass.core.desired import static_claims
from gatepass.core.ports import Cluster, SecretSeen
from gatepass.core.rules import ObservedRule, Target, parse_mark
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.engine.attempts import attempt, next_look
from gatepass.engine.queue import Queue
from gatepass.engine.state import State
from gatepass.engine.verifier import access_of
from gatepass.engine.views import Views

GRACE_SECONDS: Final = 5.0
"""How long a Secret that is being deleted is kept at least: whoever deletes a resource with it may send that second.

And how long it has to lead nowhere before it is not needed: that may be one answer of a clock that was wrong.
"""


class Safekeeping:
    """Looks at each Secret every few seconds, as no watch tells of it; `verify` is called when it has changed."""

    def __init__(
        self, state: State, views: Views, cluster: Cluster, verify: Callable[[Key], None], look_seconds: float
    ) -> None:
        self._state = state
        self._views = views
        self._cluster = cluster
        self._verify = verify
        self._look_seconds = look_seconds
        self._leaving: dict[Key, float] = {}
        self._rejected: dict[Key, float] = {}
        self.queue: Queue[Key] = Queue("secret", self.run, workers=4)

    def verified(self, resource: Key) -> None:
        """A resource was verified: from now on its Secret is looked at."""
        standing = self._state.standings.get(resource)
        if standing is not None and standing.rejected:
            self._rejected.setdefault(resource, asyncio.get_running_loop().time())
        else:
            self._rejected.pop(resource, None)
        if standing is not None and standing.access.credentials.secret is not None:
            self.queue.add(Key(*standing.access.credentials.secret))

    async def run(self, key: Key) -> None:
        """One look at one Secret."""
        await attempt(self.queue, key, self._look(key), self._look_again)

    async def _look(self, key: Key) -> bool:
        users = self._users(key)
        if not users:
            self._leaving.pop(key, None)
            await self._cluster.release_secret(*key)  # the last of them may have been taken away
            return False
        seen = await self._cluster.secret(*key)
        late = [each.key for each in users if self._known(each.key) != seen]
        for each in late:
            self._verify(each)
        if seen is None or not seen.leaving:
            self._leaving.pop(key, None)
        elif not late and await self._may_go(key):
            await self._cluster.release_secret(*key)
            self.queue.add(key)
            return False
        self.queue.add(key, self._look_again())
        return False

    def _users(self, key: Key) -> Sequence[ProtectedResource]:
        owner = self._state.owner
        found = self._state.store.resources_in([key.namespace])
        return [each for each in found if access_of(each, owner).credentials.secret == (key.namespace, key.name)]

    def _known(self, resource: Key) -> SecretSeen | None:
        standing = self._state.standings.get(resource)
        return standing.secret if standing is not None else None

    async def _may_go(self, key: Key) -> bool:
        """Would nothing that has ended, or is to end, stay open without it? New rules are barred by now."""
        now = asyncio.get_running_loop().time()
        if now < self._leaving.setdefault(key, now) + GRACE_SECONDS:
            return False
        # The namespace is asked for last, and not looked for in the store: it is marked before what is in it.
        return not await self._cluster.namespace_goes(key.namespace) and not any(map(self._needed, self._users(key)))

    def _needed(self, resource: ProtectedResource) -> bool:
        standing, now = self._state.standings.get(resource.key), asyncio.get_running_loop().time()
        if now >= self._rejected.get(resource.key, now) + GRACE_SECONDS:
            return False  # it closes nothing, also when asked again; one that does can be made when it is gone
        if standing is None or resource.deleting or self._views.in_use(resource):
            return True
        for target in standing.everywhere():
            known = self._state.target(target)
            if not standing.refuses(target) and (known.read_at is None or known.any_unsettled):
                return True
            if any(self._ends(rule, target, resource) for rule in known.rules.values()):
                return True
        return False

    def _ends(self, rule: ObservedRule, target: Target, resource: ProtectedResource) -> bool:
        """Is it a rule of the resource, be it one that was never recorded, and of no static range that it has there?"""
        mark = parse_mark(rule.description) if self._state.is_ours(rule) else None
        if mark is None or mark.resource != str(resource.key):
            return False
        listed = mark.static and target.id in resource.spec.aws.security_groups
        return not (listed and any(rule.rule in claim.rules for claim in static_claims(resource)))

    def _look_again(self) -> float:
        secrets = {each.access.credentials.secret for each in self._state.standings.values()} - {None}
        return next_look(len(secrets), self._look_seconds)
