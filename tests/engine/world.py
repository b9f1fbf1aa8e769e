"""The engine between an API server and a firewall in memory, under a virtual clock."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from gatepass.core.binding_status import KeySecret
from gatepass.core.ports import Audit, ClusterError, ConflictError, GoneError, SecretSeen, SourceFinder, Switches
from gatepass.core.types.binding import ApiKeyBinding, ApiKeyBindingStatus
from gatepass.core.types.common import FINALIZER, REQUESTED_BY, Custom, Key, Model, SourceKind, format_time
from gatepass.core.types.resource import ProtectedResource, ProtectedResourceStatus
from gatepass.core.types.session import AccessSession, AccessSessionStatus, Requester
from gatepass.engine.engine import Engine, EngineSettings
from gatepass.engine.store import Store
from gatepass.engine.verifier import Confinement
from gatepass.providers.memory import MemoryFirewalls
from tests.core.builders import a_binding, a_resource, a_session
from tests.shape.conditions import assert_session_conditions

BIG_BANG = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
OWNER = "cluster/gatepass-system/gatepass"
ALICE = '{"username":"alice","uid":"1","groups":["ci"]}'


class LoopClock:
    """Both clocks are the event loop's, until somebody finds out that it is wrong."""

    def __init__(self) -> None:
        self.corrected: Callable[[], None] = lambda: None
        self._wrong_by = 0.0

    def now(self) -> datetime:
        return BIG_BANG + timedelta(seconds=self.monotonic() + self._wrong_by)

    def correct(self, seconds: float) -> None:
        """It was slow by so much."""
        self._wrong_by += seconds
        self.corrected()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


async def eventually(true: Callable[[], object], what: str, within: float = 30.0) -> None:
    """Wait for a condition, so many seconds of the loop's time at most."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while not true():
        assert loop.time() < deadline, f"{what} did not come true in time"
        await asyncio.sleep(0.02)


async def throughout(true: Callable[[], object], what: str, seconds: float) -> None:
    """It has to be true for so many seconds of the loop's time, looked at ten times a second."""
    for _ in range(round(seconds * 10)):
        await asyncio.sleep(0.1)
        assert true(), f"{what} is not true any more"


class InMemoryCluster:
    """An API server that keeps objects, hands out versions, and tells whoever watches of every change."""

    def __init__(self) -> None:
        self.objects: dict[tuple[type[Custom], Key], Custom] = {}
        self.watchers: list[Engine] = []
        self.writes: list[tuple[str, Key]] = []
        self.refuse: Callable[[str], bool] = lambda _verb: False
        self.allowed: Callable[[Requester, Key], bool] = lambda _who, _key: True
        self.verified_since: datetime | None = BIG_BANG - timedelta(days=1)
        self.secrets: dict[Key, KeySecret] = {}
        self.credentials: dict[Key, SecretSeen | None] = {}
        self.kept: set[Key] = set()
        self.going: set[str] = set()
        self.leases: dict[str, str | None] = {}
        self.delay = 0.0
        self._version = 0

    def put(self, changed: Custom, **metadata: Any) -> Any:
        """Store an object as a new version, and tell."""
        self._version += 1
        meta = changed.metadata.model_copy(update={"resource_version": str(self._version), **metadata})
        stored = changed.model_copy(update={"metadata": meta})
        self.objects[type(stored), stored.key] = stored
        for engine in self.watchers:
            engine.seen(stored)
        return stored

    def get(self, kind: type[Custom], key: Key) -> Any:
        try:
            return self.objects[kind, key]
        except KeyError:
            raise GoneError(str(key)) from None

    def delete(self, kind: type[Custom], key: Key) -> None:
        """As a user deletes it: finalizers hold it."""
        held = self.get(kind, key)
        if held.metadata.finalizers:
            self.put(held, deletion_timestamp=LoopClock().now())
        else:
            self._remove(held)

    def _remove(self, gone: Custom) -> None:
        del self.objects[type(gone), gone.key]
        for engine in self.watchers:
            match gone:
                case AccessSession():
                    engine.session_gone(gone.key, gone.uid)
                case ProtectedResource():
                    engine.resource_gone(gone.key, gone.uid)
                case ApiKeyBinding():
                    engine.binding_gone(gone.key, gone.uid)

    def _check(self, verb: str, about: Custom) -> Any:
        self.writes.append((verb, about.key))
        if self.refuse(verb):
            raise ClusterError(f"{verb} refused")
        current = self.get(type(about), about.key)
        if current.uid != about.uid:
            raise GoneError(str(about.key))
        return current

    def _check_version(self, about: Custom, current: Custom) -> None:
        if current.metadata.resource_version != about.metadata.resource_version:
            raise ConflictError(f"{about.key}: the object has been modified")

    def _put_status(self, about: Custom, status: Model) -> Any:
        """As JSON, so that what does not come back from it as it went in shows."""
        current = self._check("status", about)
        self._check_version(about, current)
        written = json.loads(json.dumps({**current.to_json(), "status": status.to_json()}))
        return self.put(type(current).model_validate(written))

    async def hold(self, held: Custom) -> None:
        current = self._check("hold", held)
        self._check_version(held, current)
        self.put(current, finalizers=(*current.metadata.finalizers, FINALIZER))

    async def release(self, held: Custom) -> None:
        current = self._check("release", held)
        self._check_version(held, current)
        left = tuple(name for name in current.metadata.finalizers if name != FINALIZER)
        if current.deleting and not left:
            self._remove(current)
        else:
            self.put(current, finalizers=left)

    async def write_session_status(self, session: AccessSession, status: AccessSessionStatus) -> AccessSession:
        await asyncio.sleep(self.delay)
        assert_session_conditions(status)
        return self._put_status(session, status)

    async def write_resource_status(
        self, resource: ProtectedResource, status: ProtectedResourceStatus
    ) -> ProtectedResource:
        return self._put_status(resource, status)

    async def delete_session(self, session: AccessSession) -> None:
        self._check("delete", session)
        self.delete(AccessSession, session.key)

    async def may_use(self, requester: Requester, resource: Key) -> bool:
        return self.allowed(requester, resource)

    async def requesters_verified_since(self, *, anew: bool = False) -> datetime | None:
        return self.verified_since

    async def write_binding_status(self, binding: ApiKeyBinding, status: ApiKeyBindingStatus) -> ApiKeyBinding:
        return self._put_status(binding, status)

    async def key_secret(self, binding: ApiKeyBinding) -> KeySecret | None:
        return self.secrets.get(Key(binding.metadata.namespace, binding.spec.secret_name or ""))

    async def write_key_secret(self, binding: ApiKeyBinding, text: str) -> None:
        self._check("key_secret", binding)
        self.secrets[Key(binding.metadata.namespace, binding.spec.secret_name or "")] = KeySecret(True, text)

    async def write_claim_secret(self, session: AccessSession, name: str, token: str) -> None:
        self._check("claim_secret", session)
        self.secrets[Key(session.metadata.namespace, name)] = KeySecret(True, token)

    def make_secret(self, key: Key) -> None:
        """Its owner makes it, or changes it."""
        self._version += 1
        self.credentials[key] = SecretSeen(str(self._version), leaving=False)

    def delete_secret(self, key: Key) -> None:
        """Its owner deletes it: our finalizer holds it."""
        self._version += 1
        self.credentials[key] = SecretSeen(str(self._version), leaving=True) if key in self.kept else None

    async def secret(self, namespace: str, name: str) -> SecretSeen | None:
        return self.credentials.setdefault(Key(namespace, name), SecretSeen("1", leaving=False))

    async def hold_secret(self, namespace: str, name: str) -> SecretSeen | None:
        self.writes.append(("hold_secret", Key(namespace, name)))
        seen = await self.secret(namespace, name)
        if seen is not None and not seen.leaving:
            self.kept.add(Key(namespace, name))
        return seen

    async def release_secret(self, namespace: str, name: str) -> None:
        key = Key(namespace, name)
        self.writes.append(("release_secret", key))
        self.kept.discard(key)
        seen = self.credentials.get(key)
        if seen is not None and seen.leaving:
            self.credentials[key] = None

    async def namespace_goes(self, name: str) -> bool:
        return name in self.going

    async def put_lease(self, session: AccessSession) -> None:
        self._check("lease", session)
        self.leases.setdefault(session.uid, None)

    async def renewed(self, session: AccessSession) -> str | None:
        self._check("renewed", session)
        return self.leases.get(session.uid)

    def announce(self, about: Custom, reason: str, message: str, *, warning: bool = False) -> None:
        self.writes.append((f"event {reason}", about.key))


class World:
    """One cluster and one cloud, and an engine that can be ended and started again."""

    def __init__(self, firewalls: MemoryFirewalls) -> None:
        self.clock = LoopClock()
        self.cluster = InMemoryCluster()
        self.firewalls = firewalls
        self.switches: Mapping[str, Switches] = {}
        self.finders: Mapping[SourceKind, SourceFinder] = {}
        self.confinement: Mapping[str, tuple[str, ...]] = {"*": ("operator", "*")}
        self.audit: Audit | None = None
        self.audit_required = False

    @contextlib.asynccontextmanager
    async def running(self, resync: float = 600.0, **settings: Any) -> AsyncIterator[Engine]:
        """An engine from its first listing to its end, which comes as suddenly as a SIGKILL."""
        engine = self.standby(resync_seconds=resync, **settings)
        task = asyncio.create_task(engine.run())
        try:
            yield engine
        finally:
            self.cluster.watchers.remove(engine)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def standby(self, **settings: Any) -> Engine:
        """An engine that has listed everything and is told of all changes; `run` it."""
        given = {
            "owner": OWNER,
            "confinement": Confinement(self.confinement),
            "resync_seconds": 600.0,
            "default_ttl": timedelta(hours=24),
            "admission_unverified": False,
            "audit_required": self.audit_required,
            **settings,
        }
        firewalls = {"aws": self.firewalls}
        engine = Engine(
            EngineSettings(**given),
            Store(),
            firewalls,
            self.cluster,
            self.clock,
            self.switches,
            self.audit,
            self.finders,
        )
        for stored in sorted(self.cluster.objects.values(), key=lambda each: (type(each).__name__, each.key)):
            engine.seen(stored)
        self.cluster.watchers.append(engine)
        return engine

    def session(self, name: str = "it-1", **given: Any) -> AccessSession:
        """Create a session, as admission lets it in."""
        metadata = {"annotations": {REQUESTED_BY: ALICE}, "finalizers": [FINALIZER]}
        return self.cluster.put(a_session(name, **{"created": LoopClock().now(), "metadata": metadata, **given}))

    def resource(self, name: str = "staging-db", **given: Any) -> ProtectedResource:
        """Create a resource, as admission lets it in."""
        return self.cluster.put(a_resource(name, metadata={"finalizers": [FINALIZER]}, **given))

    def binding(self, name: str = "ci", **given: Any) -> ApiKeyBinding:
        """Create an ApiKeyBinding, as admission lets it in."""
        metadata = {"annotations": {REQUESTED_BY: ALICE}, **given.pop("metadata", {})}
        return self.cluster.put(a_binding(name, created=LoopClock().now(), metadata=metadata, **given))

    def session_by(self, binding: ApiKeyBinding, name: str = "it-1", **given: Any) -> AccessSession:
        """Create a session, as the REST API does for who shows the key of a binding."""
        stamp = Requester(username=binding.requester, uid=binding.uid).model_dump_json()
        metadata = {"annotations": {REQUESTED_BY: stamp}, "finalizers": [FINALIZER]}
        source = {"request": {"addresses": ["203.0.113.10"]}}
        made = a_session(name, created=LoopClock().now(), **{"metadata": metadata, "source": source, **given})
        return self.cluster.put(made)

    def edit(self, kind: type[Custom], key: Key, stamps: Mapping[str, str] | None = None, **spec: Any) -> None:
        """Change the spec, as `kubectl patch` does, and as admission stamps it."""
        current = self.cluster.get(kind, key)
        told = current.to_json()
        annotations = {**current.metadata.annotations, **(stamps or {})}
        metadata = {**told["metadata"], "annotations": annotations}
        changed = type(current).model_validate({**told, "metadata": metadata, "spec": {**told["spec"], **spec}})
        self.cluster.put(changed, generation=current.metadata.generation + 1)

    def status(self, session: AccessSession) -> AccessSessionStatus:
        """What the session says now."""
        return self.cluster.get(AccessSession, session.key).status

    def ready(self, name: str) -> str:
        """What the Ready condition of the resource says; empty before it has one."""
        conditions = self.cluster.get(ProtectedResource, Key("ci", name)).status.conditions
        return next((each.status for each in conditions if each.type == "Ready"), "")

    def at(self, seconds: float) -> str:
        """A moment as Kubernetes writes it."""
        return format_time(BIG_BANG + timedelta(seconds=seconds))
