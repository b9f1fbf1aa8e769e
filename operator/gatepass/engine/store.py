"""The custom resources as last seen, indexed; filled by one full listing, kept fresh by events."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import Custom, Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import FINAL, AccessSession, RuleStatus

C = TypeVar("C", bound=Custom)

_REMEMBERED: Final = 10_000
"""Deletions: more than happen while one listing is read."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """What decides anything about a namespace."""

    name: str
    uid: str
    version: int
    labels: Mapping[str, str]
    deleting: bool


class Store:
    """Sessions, resources and namespaces. Older versions of an object never replace newer ones."""

    def __init__(self) -> None:
        self.sessions: dict[Key, AccessSession] = {}
        self.resources: dict[Key, ProtectedResource] = {}
        self.bindings: dict[Key, ApiKeyBinding] = {}
        self.namespaces: dict[str, Namespace] = {}
        self._users: defaultdict[Key, set[Key]] = defaultdict(set)
        self._naming: defaultdict[str, set[Key]] = defaultdict(set)
        self._gone: dict[str, None] = {}
        self._by_uid: dict[str, Key] = {}
        self._arrivals: dict[str, int] = {}
        self._awaited: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._bound: defaultdict[str, set[Key]] = defaultdict(set)

    def put_session(self, session: AccessSession) -> bool:
        """Keep the session; False when it is not news."""
        if session.uid in self._gone or not _is_news(self.sessions.get(session.key), session):
            return False
        before = self.sessions.get(session.key)
        if before is not None and before.uid != session.uid:
            self.remove_session(before.key, before.uid)
        self.sessions[session.key] = session
        self._by_uid[session.uid] = session.key
        if session.status.arrival is not None:
            self._arrivals[session.uid] = session.status.arrival
        self._arrivals.setdefault(session.uid, int(session.metadata.resource_version or 0))
        for event in self._awaited.get(session.uid, ()):
            event.set()
        over = session.status.phase in FINAL
        for key in session.resource_keys():
            if over:
                self._drop_user(key, session.key)
            else:
                self._users[key].add(session.key)
        return True

    def _drop_user(self, resource: Key, session: Key) -> None:
        users = self._users.get(resource, set())
        users.discard(session)
        if not users:
            self._users.pop(resource, None)

    def remove_session(self, key: Key, uid: str) -> AccessSession | None:
        """Forget the session, unless another one of its name has come since."""
        session = self.sessions.get(key)
        if session is None or session.uid != uid:
            return None
        del self.sessions[key]
        del self._by_uid[uid], self._arrivals[uid]
        self._bury(uid)
        for event in self._awaited.get(uid, ()):
            event.set()
        for resource in session.resource_keys():
            self._drop_user(resource, key)
        return session

    def arrival(self, session: AccessSession) -> int:
        """Orders those of one second, in which creation is told: the version that it was created as.

        Of one that had been changed before it was first heard of, what an earlier process told, or the version by then.
        """
        return self._arrivals.get(session.uid, 0)

    def put_resource(self, resource: ProtectedResource) -> bool:
        """Keep the resource; False when it is not news."""
        if resource.uid in self._gone or not _is_news(self.resources.get(resource.key), resource):
            return False
        before = self.resources.get(resource.key)
        if before is not None and before.uid != resource.uid:
            self.remove_resource(before.key, before.uid)
        self._unname(resource.key)
        self.resources[resource.key] = resource
        for id_ in target_ids(resource):
            self._naming[id_].add(resource.key)
        return True

    def _unname(self, key: Key) -> None:
        before = self.resources.get(key)
        for id_ in target_ids(before) if before is not None else ():
            self._naming[id_].discard(key)
            if not self._naming[id_]:
                del self._naming[id_]

    def remove_resource(self, key: Key, uid: str) -> ProtectedResource | None:
        """Forget the resource, unless another one of its name has come since."""
        resource = self.resources.get(key)
        if resource is None or resource.uid != uid:
            return None
        self._bury(uid)
        self._unname(key)
        return self.resources.pop(key)

    def put_binding(self, binding: ApiKeyBinding) -> bool:
        """Keep the binding; False when it is not news."""
        if binding.uid in self._gone or not _is_news(self.bindings.get(binding.key), binding):
            return False
        before = self.bindings.get(binding.key)
        if before is not None and before.uid != binding.uid:
            self.remove_binding(before.key, before.uid)
        self._unbind(binding.key)
        self.bindings[binding.key] = binding
        for hash_ in binding.hashes:
            self._bound[hash_].add(binding.key)
        return True

    def put_namespace(self, namespace: Namespace) -> bool:
        """Keep the namespace; False when it is not news."""
        known = self.namespaces.get(namespace.name)
        if namespace.uid in self._gone or (known is not None and known.version >= namespace.version):
            return False
        self.namespaces[namespace.name] = namespace
        return True

    def remove_namespace(self, name: str, uid: str) -> bool:
        """Forget the namespace; False when another one of its name has come since."""
        known = self.namespaces.get(name)
        if known is None or known.uid != uid:
            return False
        self._bury(uid)
        del self.namespaces[name]
        return True

    def remove_binding(self, key: Key, uid: str) -> ApiKeyBinding | None:
        """Forget the binding, unless another one of its name has come since."""
        binding = self.bindings.get(key)
        if binding is None or binding.uid != uid:
            return None
        self._bury(uid)
        self._unbind(key)
        return self.bindings.pop(key)

    def _unbind(self, key: Key) -> None:
        before = self.bindings.get(key)
        for hash_ in before.hashes if before is not None else ():
            self._bound[hash_].discard(key)
            if not self._bound[hash_]:
                del self._bound[hash_]

    def bound_to(self, hash_: str) -> ApiKeyBinding | None:
        """The binding of a key; the oldest, should somebody have copied the hash into one of his own.

        None when two were made in the same second: nobody can tell then whose it is.
        """
        found = sorted((self.bindings[key] for key in self._bound.get(hash_, ())), key=_age)
        if len(found) > 1 and _age(found[0]) == _age(found[1]):
            return None
        return found[0] if found else None

    def is_gone(self, uid: str) -> bool:
        """Was an object of this uid deleted, of late?"""
        return uid in self._gone

    def _bury(self, uid: str) -> None:
        """A listing that began before the deletion must not bring the object back."""
        self._gone[uid] = None
        while len(self._gone) > _REMEMBERED:
            del self._gone[next(iter(self._gone))]

    def session(self, uid: str) -> AccessSession | None:
        """The session of this uid."""
        key = self._by_uid.get(uid)
        return None if key is None else self.sessions[key]

    @contextlib.contextmanager
    def changes_of(self, uid: str) -> Iterator[asyncio.Event]:
        """An event that is set at each change of a session."""
        changed = asyncio.Event()
        self._awaited[uid].add(changed)
        try:
            yield changed
        finally:
            self._awaited[uid].discard(changed)
            if not self._awaited[uid]:
                del self._awaited[uid]

    def sessions_of(self, resource: Key) -> Iterator[AccessSession]:
        """The sessions that name the resource, but for those that are over: their records may be many, for days."""
        return (self.sessions[key] for key in tuple(self._users.get(resource, ())))

    def resources_of(self, session: AccessSession) -> Iterator[ProtectedResource]:
        """The resources that the session names, as far as they are there."""
        found = (self.resources.get(key) for key in session.resource_keys())
        return (resource for resource in found if resource is not None)

    def records_of(self, resource: Key, id_: str) -> Iterator[tuple[AccessSession, RuleStatus]]:
        """The rules that sessions record as made by us for the resource in the firewall object of this id."""
        for session in self.sessions_of(resource):
            entry = session.resource_status(resource)
            for record in entry.rules if entry is not None else ():
                if record.target == id_ and not record.foreign and record.removed_at is None:
                    yield session, record

    def recorded_at(self) -> Mapping[str, set[tuple[Key, str]]]:
        """The resources, and their uids, for which sessions record rules that we have made, by firewall object."""
        found: defaultdict[str, set[tuple[Key, str]]] = defaultdict(set)
        for session in self.sessions.values():
            for entry in session.status.resources:
                for rule in entry.rules:
                    if entry.uid is not None and not rule.foreign and rule.removed_at is None:
                        found[rule.target].add((entry.key, entry.uid))
        return found

    def recorded(self) -> Iterator[str]:
        """The ids of all rules that sessions record."""
        return (
            rule.id
            for session in self.sessions.values()
            for entry in session.status.resources
            for rule in entry.rules
            if rule.removed_at is None
        )

    def resources_naming(self, id_: str) -> Iterator[ProtectedResource]:
        """The resources that have, or had, the firewall object of this id on their list, whatever came of it."""
        return (self.resources[key] for key in sorted(self._naming.get(id_, ())))

    def resources_in(self, namespaces: Iterable[str]) -> Iterator[ProtectedResource]:
        """The resources of some namespaces."""
        wanted = set(namespaces)
        return (resource for key, resource in tuple(self.resources.items()) if key.namespace in wanted)


def target_ids(resource: ProtectedResource) -> set[str]:
    """The firewall objects that it names, or did when its status was written."""
    return {*resource.spec.aws.security_groups, *(target.id for target in resource.status.targets)}


def _age(binding: ApiKeyBinding) -> datetime:
    return binding.metadata.creation_timestamp


def _is_news(known: C | None, seen: C) -> bool:
    """Versions of one API server are numbers that grow, whatever its clock does (KEP-5504, Kubernetes 1.35)."""
    return known is None or int(known.metadata.resource_version or 0) < int(seen.metadata.resource_version or 0)
