"""One pass over one session: admit, latch its end, report, and let go what is finished."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from gatepass.core.desired import ClaimKey
from gatepass.core.lifecycle import BY_DEADLINE, End
from gatepass.core.ports import Clock, Cluster, ClusterError, GoneError
from gatepass.core.rules import Target
from gatepass.core.status import ResourceView, SourceView, session_status
from gatepass.core.types.common import NEVER, Key
from gatepass.core.types.session import FINAL, AccessSession, AccessSessionStatus, Phase, ResourceState
from gatepass.engine.admission import ASK_AGAIN_SECONDS, Admission
from gatepass.engine.attempts import attempt
from gatepass.engine.ends import Ends
from gatepass.engine.grants import Grants, was_granted
from gatepass.engine.journal import Journal
from gatepass.engine.line import Line
from gatepass.engine.queue import CLOSING_RETRY, FIRST_RETRY, LAST_RETRY, TICK, Queue
from gatepass.engine.sources import Move, Sources
from gatepass.engine.state import State, Telling
from gatepass.engine.views import Views

_AT_ONCE_SECONDS: Final = 1.0
"""How long a read takes at most while nothing is the matter with the API server."""
_RULES_FIRST: Final = timedelta(seconds=5)
"""How long the last words on an ended session can wait: while many end, their rules come first."""
PLACE_EVERY_SECONDS: Final = 30.0
"""How often a waiting session is told its place in the line."""
_KEPT_FOR_EVER: Final = (
    "argocd.argoproj.io/tracking-id",
    "app.kubernetes.io/instance",  # Argo CD's label, where it does not track by annotation
    "kustomize.toolkit.fluxcd.io/name",
    "helm.toolkit.fluxcd.io/name",
)
"""Marks of Argo CD and Flux: they would create again what we delete."""


class SessionPass:
    """One pass over one session. Writes only what differs, and nothing while the first attempt is on its way."""

    def __init__(
        self,
        state: State,
        grants: Grants,
        views: Views,
        sources: Sources,
        cluster: Cluster,
        clock: Clock,
        journal: Journal,
        default_ttl: timedelta,
        *,
        unverified: bool,
        ends: Ends,
        touch: Callable[[Target], None],
        verify_first: Callable[[Key], None],
        touch_resource: Callable[[Key], None],
        promised: Callable[[AccessSession, datetime, datetime], datetime],
    ) -> None:
        self._state = state
        self._grants = grants
        self._line = Line(state, grants)
        self._views = views
        self._sources = sources
        self._cluster = cluster
        self._clock = clock
        self._journal = journal
        self._admission = Admission(state, cluster, journal, unverified=unverified)
        self._default_ttl = default_ttl
        self._ends = ends
        self._touch = touch
        self._verify_first = verify_first
        self._touch_resource = touch_resource
        self._promised = promised
        self._shape: dict[str, object] = {}
        self._told_place: dict[str, float] = {}
        self.queue: Queue[Key] = Queue("session", self.run, workers=48)

    def seen(self, session: AccessSession, *, new: bool) -> None:
        """Look at it; until that is over, a new one that has not been told anything is company on its way."""
        if session.status.phase is not None:
            self._state.coming.discard(session.uid)
        elif new:
            self._state.coming.add(session.uid)
        if not new and session.called_off and session.status.ended_at is None:
            self.close(session.key)
        self.queue.add(session.key)

    def key_changed(self, session: AccessSession) -> None:
        """The binding of its key was changed, or has gone."""
        self._admission.key_changed(session)
        self.changed(session)

    def changed(self, session: AccessSession) -> None:
        """What decides about it has changed: passes of its targets may go by that before its own."""
        self._shape.pop(session.uid, None)
        self.queue.add(session.key)

    async def run(self, key: Key) -> None:
        """One pass."""
        session = self._state.store.sessions.get(key)
        if session is None:
            self.queue.succeeded(key)  # an attempt may have failed after it was gone
            return
        try:
            await attempt(self.queue, key, self._pass(session), partial(self._longest_retry, session))
        finally:
            self._state.coming.discard(session.uid)
            if self._state.store.session(session.uid) is None:
                self._drop(session)  # once more: its pass has gone on meanwhile

    def _longest_retry(self, session: AccessSession) -> float:
        """The rules of an end stay until it is written."""
        end = self._grants.end(session, self._clock.now())
        return CLOSING_RETRY if end is not None and not end.latched else LAST_RETRY

    async def _pass(self, session: AccessSession) -> bool:
        """Answers whether admission refused something, which an administrator may change without an event."""
        for key in session.resource_keys() if session.status.phase not in FINAL else ():
            if key not in self._state.standings:
                self._verify_first(key)  # of the hundreds that are to be verified at a start
        self._schedule_end(session, self._clock.now())
        await self._ask_for_the_runner(session)
        over = self._grants.end(session, self._clock.now()) is not None
        if not session.held and not session.deleting and not over:
            await self._cluster.hold(session)
            return False
        if not over and self._ends.unleased(session):
            await self._cluster.put_lease(session)
            self._ends.leased(session)
        decidable = not over and self._grants.heard(session)
        refused = decidable and self._journal.may_decide(session, self.queue.add) and await self._ask(session)
        self._sources.heed(session)
        self._sources.look(session)
        now = self._clock.now()
        end = self._grants.end(session, now)
        self._touch_targets(session, now)
        self._state.coming.discard(session.uid)
        session = await self._report(session, end, now)
        await self._let_go(session, now)
        return refused

    async def _ask(self, session: AccessSession) -> bool:
        """Answers whether admission refused something; it is asked again while something waits."""
        try:
            answers = await self._admission.ask(session)
        except ClusterError:
            self._touch_targets(session, self._clock.now())  # the last answer may have been too old
            self.queue.add(session.key, ASK_AGAIN_SECONDS, patient=True)
            raise
        if None in answers:
            self.queue.add(session.key, ASK_AGAIN_SECONDS, patient=True)
        return any(answer is not None for answer in answers)

    async def _ask_for_the_runner(self, session: AccessSession) -> None:
        """A heart is called lost only after a read: it may be the watch that is late."""
        pause = self._ends.look(session)
        if self._ends.silent(session):
            asked = self._clock.monotonic()
            try:
                renewed = await self._cluster.renewed(session)
            except (ClusterError, GoneError):
                self._ends.unread(session)
                pause = FIRST_RETRY
            else:
                if self._clock.monotonic() > asked + _AT_ONCE_SECONDS:
                    self._ends.unread(session)
                self._ends.read(session, renewed)
                pause = self._ends.look(session)
        if pause is not None:
            self.queue.add(session.key, pause)

    def close(self, key: Key) -> None:
        """Have the rules go, should the session be over: its pass may have to wait for others."""
        session, now = self._state.store.sessions.get(key), self._clock.now()
        if session is not None and self._grants.closed(session, now):
            self._touch_targets(session, now)

    def _touch_targets(self, session: AccessSession, now: datetime) -> None:
        """Send every target that the session names through a pass that has not heard yet what it wants there."""
        resources = [self._state.store.resources.get(key) for key in session.resource_keys()]
        shape = [
            (r.key, r.uid, self._grants.claim(session, r, now), self._line.awaits(session, r, now))
            for r in resources
            if r is not None
        ]
        if self._shape.get(session.uid) != shape:
            self._shape[session.uid] = shape
            for key, uid, claim, awaited in shape:
                own = ClaimKey(session.uid, uid)
                reserved = own in self._state.reserved
                if claim is None:
                    # At once, so that no other session that ends now leaves its rule to this one.
                    self._state.release(own)
                if not awaited:
                    self._state.reserved.discard(own)
                standing = self._state.standings.get(key)
                for target in standing.everywhere() if standing else ():
                    known = self._state.target(target)
                    if known.claims.get(own) != claim or reserved:
                        if claim is None:
                            known.hurry()
                        self._touch(target)

    async def _report(self, session: AccessSession, end: End | None, now: datetime) -> AccessSession:
        views, source = self._look_at(session, end, now)
        move = self._sources.arrived(session, views) if end is None else None
        if move is not None:
            views, source = self._sources.supposing(move, lambda: self._look_at(session, end, now))
        too_early = self._too_early(session, views, end, now)
        if too_early and move is None:
            return session
        deadline, _ = self._grants.deadline(session)
        deadline = self._promised(session, deadline, now)
        second = self._clock.monotonic()
        told = self._told_place.get(session.uid)
        place_due = second if told is None else told + PLACE_EVERY_SECONDS
        refresh = second >= place_due - TICK
        runner, arrival = self._ends.view(session), self._state.store.arrival(session)
        status = session_status(
            session, views, end, deadline, now, refresh_places=refresh, arrival=arrival, source=source, runner=runner
        )
        self._schedule(session, status, now)
        waits = any(entry.state is ResourceState.WAITING for entry in status.resources)
        if waits:  # counted from when it was told: each end wakes all who wait, and would put them off for ever
            self.queue.add(session.key, PLACE_EVERY_SECONDS if refresh else place_due - second, patient=True)
        unchanged = status.says_the_same_as(session.status)
        if unchanged or too_early:
            if move is not None and unchanged:
                self._settle(move, session, now)
            return session
        self._tell(session, status)
        updated = await self._cluster.write_session_status(session, status)
        if waits and refresh:
            self._told_place[session.uid] = second
        self._state.telling.pop(session.uid, None)
        self._state.store.put_session(updated)
        self._journal.reported(session, status)
        if (updated.metadata.generation, updated.deleting) != (session.metadata.generation, session.deleting):
            self.queue.add(session.key)  # the event of this edit is no news any more
        if status.heartbeat is not None and session.status.heartbeat is None:
            self.queue.add(session.key)  # the window begins when the runner is told where to beat
        self._announce(session, status)
        if end is not None and not end.latched:
            self._touch_targets(updated, now)
        if move is not None:
            self._settle(move, updated, now)
        return updated

    def _tell(self, session: AccessSession, status: AccessSessionStatus) -> None:
        """Whatever comes of the write, and of one before it that had no answer: what they give may be on record."""
        version, earlier = session.metadata.resource_version, self._state.telling.get(session.uid)
        granted = dict(earlier.granted) if earlier is not None and earlier.version == version else {}
        granted.update({entry.key: entry for entry in status.resources if was_granted(entry)})
        self._state.telling[session.uid] = Telling(version, granted)

    def _look_at(self, session: AccessSession, end: End | None, now: datetime) -> tuple[list[ResourceView], SourceView]:
        return self._views.of_session(session, end, now), self._views.source(session)

    def _settle(self, move: Move, session: AccessSession, now: datetime) -> None:
        self._sources.settle(move)
        self._touch_targets(session, now)

    def _too_early(self, session: AccessSession, views: list[ResourceView], end: End | None, now: datetime) -> bool:
        """Nothing is written while the answer is a moment away: one write per opening, and one per closing."""
        if end is None:
            unseen = self._grants.unseen(session, now)
            if unseen is not None:
                self._come_back(session, [unseen], now)
            return unseen is not None or any(view.fresh for view in views)
        if end.latched:
            return session.deleting and not any(view.trouble for view in views)
        if not self._grants.closed(session, end.at):
            return False  # its rules wait for this write
        if left := [view for view in views if view.left]:
            return not all(view.trouble for view in left)
        return not session.deleting and self._others_first(session, end, now)

    def _others_first(self, session: AccessSession, end: End, now: datetime) -> bool:
        """Have others to be closed first? A deadline is written down at once: nobody may move it any more."""
        tellable = end.reason not in BY_DEADLINE and end.at <= now < end.at + _RULES_FIRST
        second = self._clock.monotonic()
        ahead = tellable and any(target.waits_to_close(second) for target in self._state.targets.values())
        if ahead:
            self._come_back(session, [end.at + _RULES_FIRST], now)
        return ahead

    def _schedule_end(self, session: AccessSession, now: datetime) -> None:
        """Come back when time is up, whatever fails until then."""
        if session.status.ended_at is None:
            resources = (self._state.store.resources.get(key) for key in session.resource_keys())
            caps = [session.started_at + r.spec.policy.max_duration for r in resources if r is not None]
            self._come_back(session, [self._grants.deadline(session)[0], *caps], now)

    def _schedule(self, session: AccessSession, status: AccessSessionStatus, now: datetime) -> None:
        """Come back when time alone changes what is told."""
        ttl = self._ttl(session)
        if status.ended_at is not None and status.phase in FINAL and ttl is not None:
            self._come_back(session, [status.ended_at + ttl], now)

    def _come_back(self, session: AccessSession, moments: list[datetime], now: datetime) -> None:
        ahead = [moment for moment in moments if moment > now]
        if ahead:
            self.queue.add(session.key, (min(ahead) - now).total_seconds())

    def _ttl(self, session: AccessSession) -> timedelta | None:
        ttl = self._default_ttl if session.spec.ttl_after_ended is None else session.spec.ttl_after_ended
        marks = {**session.metadata.labels, **session.metadata.annotations}
        return None if ttl == NEVER or any(mark in marks for mark in _KEPT_FOR_EVER) else ttl

    def _announce(self, session: AccessSession, status: AccessSessionStatus) -> None:
        """Events on transitions only."""
        before = session.status.phase
        if status.phase is None or status.phase == before:
            return
        settled = next((c.message for c in status.conditions if c.type == "Settled"), "")
        warning = status.phase in (Phase.FAILED, Phase.PARTIAL)
        message = f"open to {status.address}" if status.phase is Phase.ACTIVE else settled or status.phase.value
        self._cluster.announce(session, status.phase.value, message, warning=warning)

    async def _let_go(self, session: AccessSession, now: datetime) -> None:
        end = self._grants.end(session, now)
        if end is None or not end.latched or any(v.left for v in self._views.of_session(session, end, now)):
            return
        over, ttl = session.status.phase in FINAL, self._ttl(session)
        for key in session.resource_keys() if over else ():
            self._touch_resource(key)  # it may wait for its last user
        if over and not session.deleting and ttl is not None and end.at + ttl <= now:
            await self._cluster.delete_session(session)
        elif session.held and session.deleting:
            await self._cluster.release(session)
        elif session.held and over:
            # Also when nobody deletes it: a record must not outlive Gatepass as something that cannot be deleted.
            if end.at <= now < end.at + _RULES_FIRST:
                self._come_back(session, [end.at + _RULES_FIRST], now)
            else:
                await self._cluster.release(session)

    def forget(self, session: AccessSession) -> None:
        """The session is no more."""
        self.queue.forget(session.key)
        self._drop(session)

    def _drop(self, session: AccessSession) -> None:
        self._shape.pop(session.uid, None)
        self._told_place.pop(session.uid, None)
        self._state.closed.pop(session.uid, None)
        self._state.ending.pop(session.uid, None)
        self._state.heard.discard(session.uid)
        self._state.coming.discard(session.uid)
        self._state.runners.pop(session.uid, None)
        self._state.telling.pop(session.uid, None)
        self._ends.forget(session)
        self._grants.forget(session)
        self._sources.forget(session)
        self._journal.forget(session)
        self._admission.forget(session)
        for key in session.resource_keys():
            if (resource := self._state.store.resources.get(key)) is not None:
                self._state.release(ClaimKey(session.uid, resource.uid))
                self._state.reserved.discard(ClaimKey(session.uid, resource.uid))
            standing = self._state.standings.get(key)
            for target in standing.everywhere() if standing else ():
                self._touch(target)
