"""One pass over one ProtectedResource: report, and let go what is finished."""

from collections.abc import Callable
from typing import Final

import structlog

from gatepass.core.ports import Clock, Cluster
from gatepass.core.resource_status import resource_status
from gatepass.core.types.common import ABANDON, Key
from gatepass.core.types.resource import Capacity, ProtectedResource, ProtectedResourceStatus
from gatepass.engine.attempts import attempt
from gatepass.engine.queue import Queue
from gatepass.engine.state import Standing, State
from gatepass.engine.verifier import access_of
from gatepass.engine.views import Views

log = structlog.get_logger(__name__)

WRITE_EVERY_SECONDS: Final = 1.0
"""A burst of sessions changes capacity many times a second; nobody reads it that often, and no session waits for it."""

VERIFIED_EVERY_SECONDS: Final = 3600.0
"""How often `lastVerifiedAt` alone is worth a write: otherwise each start and each resync would write every status."""

_NEVER: Final = float("-inf")
_SOON: Final = 0.001
"""Seconds that are not worth another pass: clocks do not resolve much less."""


class ResourcePass:
    """Writes status at most once a second, its counts a second late; holds a deleted resource until nothing is left."""

    def __init__(
        self, state: State, views: Views, cluster: Cluster, clock: Clock, seen: Callable[[ProtectedResource], None]
    ) -> None:
        self._seen = seen
        self._state = state
        self._views = views
        self._cluster = cluster
        self._clock = clock
        self._written: dict[str, float] = {}
        self._counted: dict[str, float] = {}
        self._releasing: set[str] = set()
        self.queue: Queue[Key] = Queue("resource", self.run, workers=8)

    async def run(self, key: Key) -> None:
        """One pass."""
        resource = self._state.store.resources.get(key)
        if resource is None:
            self.queue.succeeded(key)
        else:
            await attempt(self.queue, key, self._pass(resource))

    async def _pass(self, resource: ProtectedResource) -> bool:
        standing = self._state.standings.get(resource.key)
        emptied = _is_emptied(resource)
        if standing is not None and not emptied:
            resource = await self._report(resource, standing)
            standing = self._state.standings.get(resource.key)  # a verification may have ended meanwhile
        if resource.deleting and resource.held and (emptied or self._may_go(resource, standing)):
            await self._release(resource)
        return False

    async def _report(self, resource: ProtectedResource, standing: Standing) -> ProtectedResource:
        """Answers with the resource as it is now."""
        if self._first_read_is_under_way(standing):
            return resource  # a moment from now there is something to say
        at = self._clock.monotonic()
        last = max(self._written.get(resource.uid, _NEVER), self._counted.get(resource.uid, _NEVER))
        if (wait := last + WRITE_EVERY_SECONDS - at) > _SOON:
            self.queue.add(resource.key, wait)  # before, it would be counted again for each session that comes or goes
            return resource
        now = self._clock.now()
        status = resource_status(resource, self._views.of_resource(resource, standing, now), now)
        if status == resource.status:
            self._counted.pop(resource.uid, None)
            return resource
        if _uncounted(status) == _uncounted(resource.status):
            if _counts(status) == _counts(resource.status):
                since = self._written.get(resource.uid, self._state.started)
                if at < since + VERIFIED_EVERY_SECONDS:
                    return resource  # a later resync comes back
            if resource.uid not in self._counted:
                self._counted[resource.uid] = at
                self.queue.add(resource.key, WRITE_EVERY_SECONDS)
                return resource
        self._counted.pop(resource.uid, None)
        self._written[resource.uid] = at
        updated = await self._cluster.write_resource_status(resource, status)
        self._seen(updated)  # an edit that it carries makes no news any more
        self._announce(resource, status)
        return updated

    def _first_read_is_under_way(self, standing: Standing) -> bool:
        known = (self._state.target(target) for target in standing.usable())
        return any(target.read_at is None and target.trouble is None for target in known)

    def _announce(self, resource: ProtectedResource, status: ProtectedResourceStatus) -> None:
        """Events on transitions only."""
        before = {condition.type: condition.status for condition in resource.status.conditions}
        for condition in status.conditions:
            if condition.type == "Ready" and before.get("Ready") != condition.status:
                self._cluster.announce(
                    resource, condition.reason, condition.message, warning=condition.status != "True"
                )

    def _may_go(self, resource: ProtectedResource, standing: Standing | None) -> bool:
        if resource.metadata.annotations.get(ABANDON) == "true":
            left = self._left(standing)
            log.warning("abandoned", resource=str(resource.key), rules=left)
            self._cluster.announce(
                resource, "Abandoned", f"given up; rules that may be left: {', '.join(left) or 'none'}", warning=True
            )
            return True
        return self._views.finished(resource, standing)

    def _left(self, standing: Standing | None) -> list[str]:
        return [
            f"{target.id}/{rule.id} ({rule.rule})"
            for target in (standing.everywhere() if standing else ())
            for rule in self._state.target(target).rules.values()
            if self._state.is_ours(rule)
        ]

    async def _release(self, resource: ProtectedResource) -> None:
        self._releasing.add(resource.uid)
        secret = access_of(resource, self._state.owner).credentials.secret
        if secret is not None and not self._shared(resource, secret):
            if not _is_emptied(resource):  # on record, for a successor that finds no Secret any more to look with
                status = resource.status.model_copy(update={"targets": ()})
                resource = await self._cluster.write_resource_status(resource, status)
            await self._cluster.release_secret(*secret)
        await self._cluster.release(resource)

    def _shared(self, resource: ProtectedResource, secret: tuple[str, str]) -> bool:
        return any(
            access_of(other, self._state.owner).credentials.secret == secret
            for other in self._state.store.resources_in([resource.metadata.namespace])
            if other.uid not in self._releasing
        )

    def forget(self, resource: ProtectedResource) -> None:
        """The resource is no more."""
        self.queue.forget(resource.key)
        self._written.pop(resource.uid, None)
        self._counted.pop(resource.uid, None)
        self._releasing.discard(resource.uid)


def _is_emptied(resource: ProtectedResource) -> bool:
    """Was it found empty for good? Whoever has verified it has recorded its targets."""
    return resource.deleting and resource.status.account is not None and not resource.status.targets


def _uncounted(status: ProtectedResourceStatus) -> ProtectedResourceStatus:
    return status.model_copy(update={"capacity": None, "active_sessions": None, "last_verified_at": None})


def _counts(status: ProtectedResourceStatus) -> tuple[Capacity | None, int | None]:
    return status.capacity, status.active_sessions
