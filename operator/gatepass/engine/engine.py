"""The engine as a whole: events in, passes out."""

import asyncio
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from gatepass.core.leadership import Leadership
from gatepass.core.ports import Audit, Clock, Cluster, Provider, SourceFinder, Switches
from gatepass.core.rules import Target
from gatepass.core.stamps import requester_of
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import Custom, Key, SourceKind
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import FINAL, AccessSession, Phase
from gatepass.engine.binding_pass import BindingPass
from gatepass.engine.ends import Ends
from gatepass.engine.grants import Grants
from gatepass.engine.insight import Insight
from gatepass.engine.journal import Journal
from gatepass.engine.reconciler import Reconciler
from gatepass.engine.resource_pass import ResourcePass
from gatepass.engine.safekeeping import Safekeeping
from gatepass.engine.session_pass import SessionPass
from gatepass.engine.sources import Sources
from gatepass.engine.state import Standing, State
from gatepass.engine.store import Namespace, Store
from gatepass.engine.sweeper import Sweeper
from gatepass.engine.switches import Switchboard
from gatepass.engine.takeover import has_only_ended, is_as_told, patience
from gatepass.engine.verifier import Confinement, Verifier
from gatepass.engine.views import Views
from gatepass.engine.vouching import Vouching

_AT_ONCE: Final = 5
"""Sessions that are taken up at the start in one turn of the event loop."""
_MOMENT_SECONDS: Final = 1.0
"""How soon a session looks again after a pass that concerns others."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """`owner` is the install id that marks our rules; `audit_required` holds an open until its entry is durable.

    `handover_seconds` is how long after the start calls of an earlier process may still have their effect; `cutoff`
    ends every session that was created before it. A Secret, which no watch tells of, is looked at every `look_seconds`
    where there are few of them. `leadership` is read once `run` has begun.
    """

    owner: str
    confinement: Confinement
    resync_seconds: float
    default_ttl: timedelta
    admission_unverified: bool
    handover_seconds: float = 0.0
    look_seconds: float = 2.0
    cutoff: datetime | None = None
    audit_required: bool = False
    leadership: Leadership = field(default_factory=Leadership)


class Engine:
    """Takes what is seen of objects, and brings the firewalls and the statuses in line with it.

    Fill `store` with a full listing before `run`: what is not in it is not granted, and is revoked.
    """

    def __init__(
        self,
        settings: EngineSettings,
        store: Store,
        providers: Mapping[str, Provider],
        cluster: Cluster,
        clock: Clock,
        switches: Mapping[str, Switches] | None = None,
        audit: Audit | None = None,
        finders: Mapping[SourceKind, SourceFinder] | None = None,
    ) -> None:
        self._settings, self._clock, self.store = settings, clock, store
        clock.corrected = self._clock_corrected
        self._state = state = State(
            store,
            settings.owner,
            started=clock.monotonic(),
            started_at=clock.now(),
            cutoff=settings.cutoff,
            leadership=settings.leadership,
        )
        self._grants = grants = Grants(state)
        views = Views(state, grants)
        unverified = settings.admission_unverified
        self._journal = journal = Journal(audit, clock, required=settings.audit_required)
        self._verifier = Verifier(state, providers, cluster, clock, settings.confinement, views.empty, self._verified)
        vouching = Vouching(state)
        self._switchboard = Switchboard(state, grants, switches or {}, clock, vouching, self._switched)
        self._reconciler = Reconciler(
            state,
            grants,
            providers,
            clock,
            journal,
            self._reconciled,
            self._verifier.queue.add,
            vouching,
            self._switchboard,
        )
        self._sweeper = Sweeper(state, grants, providers, clock, vouching, self._reconciler.queue.add)
        found_by = {} if finders is None else finders  # who composes may still add to it
        self._sources = Sources(state, grants, found_by, clock, lambda key: self._sessions.queue.add(key))
        self.ends = Ends(state, clock, self._look_again)
        self._resources = ResourcePass(state, views, cluster, clock, self.resource_seen)
        self._sessions = SessionPass(
            state,
            grants,
            views,
            self._sources,
            cluster,
            clock,
            journal,
            settings.default_ttl,
            ends=self.ends,
            unverified=unverified,
            touch=self._reconciler.queue.add,
            verify_first=self._verifier.queue.hurry,
            touch_resource=self._resources.queue.add,
            promised=self._switchboard.promised,
        )
        self._safekeeping = Safekeeping(state, views, cluster, self._verifier.queue.add, settings.look_seconds)
        self._bindings = BindingPass(state, cluster, clock, journal, settings.look_seconds, unverified=unverified)
        self._queues = (
            self._verifier.queue,
            self._reconciler.queue,
            self._sources.queue,
            self._sessions.queue,
            self._resources.queue,
            self._bindings.queue,
            self._safekeeping.queue,
            self._sweeper.queue,
            self._switchboard.queue,
        )
        self.insight = Insight(state, grants, views, clock, self._queues)

    async def run(self) -> None:
        """Work until cancelled. What is counted from a start is counted from here: this is when we begin to lead."""
        self._state.begin(self._clock.monotonic(), self._clock.now())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._resync())  # first: what is under way already would be looked at twice
            for queue in self._queues:
                tasks.create_task(queue.run())
            tasks.create_task(self._journal.run(self.store))

    async def _resync(self) -> None:
        """Look at everything at the start and then at every resync: drift makes no event.

        Soon after the start too: when an earlier process can have nothing under way any more, and when reads show
        everything that it has written.
        """
        for key in self.store.sessions:  # the listing has asked for all of them at once
            self._sessions.queue.forget(key)
        for key in self.store.resources:  # the same; where a session waits, its pass asks for it first
            self._verifier.queue.forget(key)
        self._look_at_everything()
        await self._take_up(list(self.store.sessions.values()))
        settled = self._state.reads_settle_at - self._state.started + 1.0
        looks = sorted({0.0, self._settings.handover_seconds, settled})
        first = [after - before for before, after in itertools.pairwise(looks)]
        longest = self._settings.resync_seconds
        for pause in itertools.chain((min(each, longest) for each in first), itertools.repeat(longest)):
            await asyncio.sleep(pause)
            for key in list(self.store.sessions):
                self._sessions.queue.add(key, patient=True)
            self._look_at_everything()

    def _look_at_everything(self) -> None:
        self._state.forget_unnamed()
        self._sweeper.again()
        self._switchboard.again()
        self._state.parked.clear()
        self._sources.again()
        for key in self.store.resources:
            self._verifier.queue.add(key, patient=True)
        for target, known in self._state.targets.items():
            known.stale = True
            self._reconciler.queue.add(target, patient=True)
        for binding in self.store.bindings:
            self._bindings.queue.add(binding, patient=True)

    async def _take_up(self, sessions: Sequence[AccessSession]) -> None:
        """What is not as its status says comes first; the thousands that seem to be are asked about bit by bit."""
        now = self._clock.now()
        calm: list[AccessSession] = []
        for session in sessions:
            if is_as_told(session, now):
                calm.append(session)
            else:
                self._sessions.queue.add(session.key, patient=has_only_ended(session, self._grants, now))
        for number, session in enumerate(calm):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
            self._sessions.queue.add(session.key, self._patience(session))

    def _patience(self, session: AccessSession) -> float:
        return patience(session, self._grants, self._clock.now())

    def _clock_corrected(self) -> None:
        """What was to be done at some time is to be done at another."""
        for target in list(self._state.targets):
            self._reconciler.queue.add(target)
        for key in list(self.store.sessions):
            self._sessions.queue.add(key)

    # events

    def seen(self, changed: Custom) -> None:
        """An object of any of our kinds was created or changed."""
        match changed:
            case AccessSession():
                self.session_seen(changed)
            case ProtectedResource():
                self.resource_seen(changed)
            case ApiKeyBinding():
                self.binding_seen(changed)

    def session_seen(self, session: AccessSession) -> None:
        """A session was created or changed."""
        before = self.store.sessions.get(session.key)
        if self.store.put_session(session):
            new = before is None or before.uid != session.uid
            if before is not None and new:
                self._sessions.forget(before)
            elif before is not None:
                if before.spec != session.spec:
                    self._journal.moved(session, self._grants.deadline(before)[0], self._grants.deadline(session)[0])
                if session.spec.source.claim and before.status.source != session.status.source:
                    self._sources.changed(session.key)  # a claim is written there
            self._sessions.seen(session, new=new)

    def session_gone(self, key: Key, uid: str) -> None:
        """A session was deleted."""
        session = self.store.remove_session(key, uid)
        if session is not None:
            self._sessions.forget(session)

    def source_changed(self, key: Key) -> None:
        """What a session's address rests on has changed: a pod was scheduled or has moved."""
        self._sources.changed(key)

    def resource_seen(self, resource: ProtectedResource) -> None:
        """A resource was created or changed."""
        before = self.store.resources.get(resource.key)
        if not self.store.put_resource(resource):
            return
        if before is None or _version(before) != _version(resource):
            self._journal.resource_seen(resource)
        if before is not None and before.uid != resource.uid:
            self._forget_resource(before)
            before = None
        if before is None or _decides(before) != _decides(resource):
            self._state.unpark(resource.uid)
            self._verifier.queue.add(resource.key)
            self._touch_targets(resource.key)
            self._touch_users(resource.key)
            self._sources.policy_changed(resource.key)
        self._resources.queue.add(resource.key)

    def resource_gone(self, key: Key, uid: str) -> None:
        """A resource was deleted."""
        resource = self.store.remove_resource(key, uid)
        if resource is not None:
            self._journal.resource_gone(resource)
            self._forget_resource(resource)
            self._touch_users(key)

    def binding_seen(self, binding: ApiKeyBinding) -> None:
        """A key was bound or changed."""
        before = self.store.bindings.get(binding.key)
        if self.store.put_binding(binding):
            self._bindings.queue.add(binding.key)
            if before is None or _told(before) != _told(binding):
                self._journal.binding_seen(binding)
            if before is None or _bounds(before) != _bounds(binding):
                self._touch_sessions_of(binding)

    def binding_gone(self, key: Key, uid: str) -> None:
        """A binding was deleted."""
        binding = self.store.remove_binding(key, uid)
        if binding is not None:
            self._bindings.queue.forget(key)
            self._journal.binding_gone(binding)
            self._touch_sessions_of(binding)

    def _touch_sessions_of(self, binding: ApiKeyBinding) -> None:
        for session in self.store.sessions.values():
            requester = requester_of(session)
            if requester is not None and requester.username == binding.requester:
                self._sessions.key_changed(session)

    def namespace_seen(self, namespace: Namespace) -> None:
        """A namespace was created or changed."""
        if self.store.put_namespace(namespace):
            self._touch_namespace(namespace.name)

    def namespace_gone(self, name: str, uid: str) -> None:
        """A namespace was deleted."""
        if self.store.remove_namespace(name, uid):
            self._touch_namespace(name)

    # who has to look again

    def _verified(self, key: Key, before: Standing | None) -> None:
        after = self._state.standings.get(key)
        if before is None or after is None or not before.says_the_same_as(after):
            # Only then: a target whose calls fail is verified again, and must not lose its backoff by that.
            if (resource := self.store.resources.get(key)) is not None:
                self._state.unpark(resource.uid)
            read_next = before is None and after is not None and after.complete
            pressing = [s for s in self.store.sessions_of(key) if not read_next or self._patience(s) <= 0]
            for target in {*(before.everywhere() if before else ()), *(after.everywhere() if after else ())}:
                self._reconciler.queue.add(target, patient=read_next and not pressing)
            for session in pressing:
                self._sessions.queue.add(session.key)
        self._sweeper.verified(key)
        self._safekeeping.verified(key)
        self._resources.queue.add(key)

    def _reconciled(self, target: Target, concerned: Collection[str], for_all: bool) -> None:
        """Tell those who use the target: first whom the pass has `concerned`, then all if it has found anything.

        Where many end at once each makes a pass, which is no news to most of the others.
        """
        waiting = {claim.holder for claim in self._state.waiting}  # who tells his place twice a minute by himself
        for key in self._state.tenants[target]:
            for session in self.store.sessions_of(key):
                if session.uid in concerned:
                    self._sessions.queue.add(session.key)
                elif for_all:
                    self._sessions.queue.add(session.key, patient=True)
                elif session.uid not in waiting and not self._is_settled(session):
                    self._sessions.queue.add(session.key, _MOMENT_SECONDS, patient=True)
            self._resources.queue.add(key)

    def _is_settled(self, session: AccessSession) -> bool:
        """Is it open, or over for good, and does its status say so?"""
        phase = session.status.phase
        ends = session.uid in self._state.ending or session.uid in self._state.closed
        return phase in FINAL or (phase is Phase.ACTIVE and not ends)

    def _switched(self, target: Target) -> None:
        """A switch was moved, so that labels and promises may follow; or one is missing, or no longer is."""
        self._reconciler.queue.add(target)
        self._reconciled(target, (), for_all=True)

    def _touch_targets(self, resource: Key) -> None:
        standing = self._state.standings.get(resource)
        for target in standing.everywhere() if standing else ():
            self._reconciler.queue.add(target)

    def _look_again(self, session: Key) -> None:
        self._sessions.close(session)
        self._sessions.queue.add(session)

    def _touch_users(self, resource: Key) -> None:
        for session in self.store.sessions_of(resource):
            self._sessions.changed(session)

    def _touch_namespace(self, name: str) -> None:
        for resource in self.store.resources_in([name]):
            self._touch_users(resource.key)
            self._resources.queue.add(resource.key)
        for session in [each for key, each in self.store.sessions.items() if key.namespace == name]:
            self._sessions.changed(session)

    def _forget_resource(self, resource: ProtectedResource) -> None:
        self._touch_targets(resource.key)
        self._state.set_standing(resource.key, None)
        self._state.release_all(resource.uid)
        self._verifier.queue.forget(resource.key)
        self._resources.forget(resource)


def _version(resource: ProtectedResource) -> tuple[str, int]:
    return resource.uid, resource.metadata.generation


def _told(binding: ApiKeyBinding) -> tuple[object, ...]:
    """What of a binding the trail tells."""
    return binding.uid, binding.metadata.generation, *(key.id for key in binding.status.keys)


def _bounds(binding: ApiKeyBinding) -> tuple[str, int, bool]:
    """What of a binding makes its sessions look again; that its key was used does not, which is told every minute."""
    return binding.uid, binding.metadata.generation, binding.deleting


def _decides(resource: ProtectedResource) -> tuple[int, bool, bool]:
    """What of a resource makes sessions look again; its status does not."""
    return resource.metadata.generation, resource.deleting, resource.held
