"""The custom resources as last seen, indexed; filled by one full listing, kept fresh by events."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from gatepass.core.types.common import Custom, Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession

C = TypeVar("C", bound=Custom)

_REMEMBERED: Final = 10_000
"""Deletions: more than happen while one listing is read."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """What decides anything about a namespace."""

    name: str
    labels: Mapping[str, str]
    deleting: bool


class Store:
    """Sessions, resources and namespaces. Older versions of an object never replace newer ones."""

    def __init__(self) -> None:
        self.sessions: dict[Key, AccessSession] = {}
        self.resources: dict[Key, ProtectedResource] = {}
        self.namespaces: dict[str, Namespace] = {}
        self._users: defaultdict[Key, set[Key]] = defaultdict(set)
        self._naming: defaultdict[str, set[Key]] = defaultdict(set)
        self._gone: dict[str, None] = {}

    def put_session(self, session: AccessSession) -> bool:
        """Keep the session; False when it is not news."""
        if session.uid in self._gone or not _is_news(self.sessions.get(session.key), session):
            return False
        before = self.sessions.get(session.key)
        if before is not None and before.uid != session.uid:
            self.remove_session(before.key, before.uid)
        self.sessions[session.key] = session
        for key in session.resource_keys():
            self._users[key].add(session.key)
        return True

    def remove_session(self, key: Key, uid: str) -> AccessSession | None:
        """Forget the session, unless another one of its name has come since."""
        session = self.sessions.get(key)
        if session is None or session.uid != uid:
            return None
        del self.sessions[key]
        self._bury(uid)
        for resource in session.resource_keys():
            self._users[resource].discard(key)
        return session

    def put_resource(self, resource: ProtectedResource) -> bool:
        """Keep the resource; False when it is not news."""
        if resource.uid in self._gone or not _is_news(self.resources.get(resource.key), resource):
            return False
        self.resources[resource.key] = resource
        for id_ in _target_ids(resource):
            self._naming[id_].add(resource.key)
        return True

    def remove_resource(self, key: Key, uid: str) -> ProtectedResource | None:
        """Forget the resource, unless another one of its name has come since."""
        resource = self.resources.get(key)
        if resource is None or resource.uid != uid:
            return None
        self._bury(uid)
        return self.resources.pop(key)

    def _bury(self, uid: str) -> None:
        """A listing that began before the deletion must not bring the object back."""
        self._gone[uid] = None
        while len(self._gone) > _REMEMBERED:
            del self._gone[next(iter(self._gone))]

    def sessions_of(self, resource: Key) -> Iterator[AccessSession]:
        """The sessions that name the resource."""
        return (self.sessions[key] for key in tuple(self._users.get(resource, ())))

    def resources_naming(self, id_: str) -> Iterator[ProtectedResource]:
        """The resources that have, or had, the firewall object of this id on their list, whatever came of it."""
        for key in sorted(self._naming.get(id_, ())):
            resource = self.resources.get(key)
            if resource is None or id_ not in _target_ids(resource):
                self._naming[id_].discard(key)
            else:
                yield resource

    def resources_in(self, namespaces: Iterable[str]) -> Iterator[ProtectedResource]:
        """The resources of some namespaces."""
        wanted = set(namespaces)
        return (resource for key, resource in tuple(self.resources.items()) if key.namespace in wanted)


def _target_ids(resource: ProtectedResource) -> set[str]:
    return {*resource.spec.aws.security_groups, *(target.id for target in resource.status.targets)}


def _is_news(known: C | None, seen: C) -> bool:
    """Versions of one API server are numbers that grow (KEP-5504, Kubernetes 1.35)."""
    if known is None or known.uid != seen.uid:
        return known is None or known.metadata.creation_timestamp <= seen.metadata.creation_timestamp
    return int(seen.metadata.resource_version) > int(known.metadata.resource_version)
