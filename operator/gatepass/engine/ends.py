"""What is known of the runners: the objects that sessions are bound to, and their hearts."""

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from gatepass.core.owners import Kind, Sighting
from gatepass.core.policy import Refusal
from gatepass.core.ports import Clock
from gatepass.core.status import RunnerView
from gatepass.core.types.common import Key
from gatepass.core.types.ends import BoundToStatus, HeartbeatStatus, lease_name, leased_by
from gatepass.core.types.session import AccessSession, EndedReason
from gatepass.engine.queue import TICK
from gatepass.engine.state import State

MISSING_SECONDS: Final = 30.0
"""How long an object may not be there yet, from the first look at its kind that missed it."""
_SUCCESSOR_SECONDS: Final = 0.5
"""How long after a late watch has told that an object is gone it may take to tell of the next one of its name."""


@dataclass(slots=True)
class _Followed:
    """A kind in use: its objects since the first full listing, when the last one began, and who is bound to which.

    `doubtful` are names of which only a listing that begins later can tell.
    """

    objects: dict[Key, Sighting] | None = None
    listed_at: float = float("-inf")
    refusal: Refusal | None = None
    bound: defaultdict[Key, set[Key]] = field(default_factory=lambda: defaultdict(set))
    doubtful: set[Key] = field(default_factory=set)


@dataclass(slots=True)
class _Bond:
    """What was seen of the object that a session is bound to, since the first look for it at `looked_at`.

    `uid` is that of the first one of its name, which was not there at `missing_since`, or went at `lost_at`.
    """

    looked_at: float
    uid: str | None = None
    missing_since: float | None = None
    lost_at: float | None = None


@dataclass(slots=True)
class _Heart:
    """`since` is when its window began, `renewed` what its Lease said last; `unheard` while a read has failed.

    `awaited` while there is no runner that could beat: none has, and nobody has been told where, or what it would run
    in is not there.
    """

    key: Key
    since: float
    renewed: str | None = None
    seen_at: datetime | None = None
    leased: bool = False
    unheard: bool = False
    beaten: bool = False
    awaited: bool = False


class Ends:
    """Takes what is seen of objects and Leases, and decides which sessions have lost their runner.

    Seconds are of the monotonic clock. `touch` is called with the session that has to look again. Who follows objects
    reads `kinds`, `doubted` and `beating`, and waits for `changed`.
    """

    def __init__(self, state: State, clock: Clock, touch: Callable[[Key], None]) -> None:
        self._state = state
        self._clock = clock
        self._touch = touch
        self._kinds: dict[Kind, _Followed] = {}
        self._bonds: dict[str, _Bond] = {}
        self._doubted: set[Kind] = set()
        self._hearts: dict[str, _Heart] = {}
        self._leases_listed = False
        self._renewed: dict[Key, str | None] = {}
        self.changed = asyncio.Event()
        self.steady_for: Callable[[], float] = lambda: math.inf
        """For how long the API server has answered everybody: while it does not, no heart can be heard."""

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds that live sessions are bound to."""
        return frozenset(kind for kind, followed in self._kinds.items() if followed.bound)

    def doubted(self) -> frozenset[Kind]:
        """The kinds to be listed anew: a watch that is late would miss an object too. Asked once for each doubt."""
        doubted = frozenset(self._doubted)
        self._doubted.clear()
        return doubted

    @property
    def beating(self) -> bool:
        """Has any live session a heartbeat?"""
        return bool(self._hearts)

    # what is seen of objects

    def listed(self, kind: Kind, objects: Mapping[Key, Sighting], began: float) -> None:
        """One full listing of a kind that began at that second, later than whatever was recorded of it."""
        followed = self._kinds.get(kind)
        if followed is None:
            return
        before = followed.objects
        followed.objects, followed.refusal, followed.listed_at = dict(objects), None, began
        doubtful, followed.doubtful = followed.doubtful, set()
        for key in list(followed.bound):
            if before is None or key not in objects or before.get(key) != objects[key] or key in doubtful:
                self._changed(followed, key)

    def seen(self, kind: Kind, key: Key, sighting: Sighting) -> None:
        """An object has been created or has changed."""
        followed = self._kinds.get(kind)
        if followed is not None and followed.objects is not None and followed.objects.get(key) != sighting:
            followed.objects[key] = sighting
            self._changed(followed, key)

    def gone(self, kind: Kind, key: Key, uid: str) -> None:
        """An object has been deleted."""
        followed = self._kinds.get(kind)
        objects = followed.objects if followed is not None else None
        if followed is not None and objects is not None and key in objects and objects[key].uid == uid:
            del objects[key]
            self._changed(followed, key)

    def unfollowed(self, kind: Kind, refusal: Refusal) -> None:
        """Nobody can tell any more what becomes of the objects of a kind."""
        followed = self._kinds.get(kind)
        if followed is not None and (followed.refusal, followed.objects) != (refusal, None):
            followed.refusal, followed.objects = refusal, None
            for key in list(followed.bound):
                self._changed(followed, key)

    def dropped(self, kind: Kind) -> None:
        """Nobody follows the kind any more."""
        if kind not in self.kinds:
            self._kinds.pop(kind, None)

    def _changed(self, followed: _Followed, key: Key) -> None:
        """Whoever has lost its runner is known at once: passes may wait in line for the API server."""
        for each in tuple(followed.bound.get(key, ())):
            session = self._state.store.sessions.get(each)
            if session is not None:
                self.look(session)
            self._touch(each)

    # what is seen of Leases

    def beat(self, lease: Key, renewed: str | None) -> None:
        """A Lease says that it was renewed then; what it said before is no beat."""
        self._renewed[lease] = renewed
        heart = self._heart_of(lease)
        if heart is None:
            return
        if not heart.leased:  # the first sight of it, in this life
            heart.leased, heart.renewed = True, renewed
        elif renewed != heart.renewed:
            heart.renewed, heart.since, heart.seen_at = renewed, self._clock.monotonic(), self._clock.now()
        if renewed is not None and not heart.beaten:
            heart.beaten = True
            self._touch(heart.key)

    def _heart_of(self, lease: Key) -> _Heart | None:
        """Whose it is by name and namespace; another one that bears our label is nobody's."""
        heart = self._hearts.get(leased_by(lease.name))
        return heart if heart is not None and heart.key.namespace == lease.namespace else None

    def lease_gone(self, lease: Key) -> None:
        """Somebody has deleted it."""
        self._renewed.pop(lease, None)
        heart = self._heart_of(lease)
        if heart is not None and heart.leased:
            heart.leased = False
            self._touch(heart.key)

    def leases_listed(self, leases: Mapping[Key, str | None]) -> None:
        """What every Lease says, at first or after beats may have been lost: all begin anew."""
        self._leases_listed = True
        self._renewed = dict(leases)
        now = self._clock.monotonic()
        for uid, heart in self._hearts.items():
            heart.since = now
            lease = Key(heart.key.namespace, lease_name(uid))
            if lease in leases:
                self.beat(lease, leases[lease])
            else:
                heart.leased = False
                self._touch(heart.key)

    def leases_dropped(self) -> None:
        """Nobody follows the Leases any more."""
        self._leases_listed = False
        self._renewed.clear()

    def leased(self, session: AccessSession) -> None:
        """Its Lease has been made, and says nothing yet: that it is told of is no beat."""
        if (heart := self._hearts.get(session.uid)) is not None:
            heart.leased, heart.renewed = True, None

    # what becomes of a session

    def look(self, session: AccessSession) -> float | None:
        """Decide on a session by what is known, and answer in how many seconds time alone may say something else."""
        if session.status.ended_at is not None:
            self.forget(session)
            return None
        if session.uid in self._state.closed:  # its status has still to tell of its runner
            return None
        pauses = [pause for pause in (self._look_at_owner(session), self._look_at_heart(session)) if pause is not None]
        return min(pauses, default=None)

    def _look_at_owner(self, session: AccessSession) -> float | None:
        bound = session.spec.bound_to
        if bound is None:
            return None
        kind = Kind(bound.api_version, bound.kind)
        followed, key = self._kinds.setdefault(kind, _Followed()), Key(session.metadata.namespace, bound.name)
        if not followed.bound:
            self.changed.set()
        followed.bound[key].add(session.key)
        if followed.objects is not None or followed.refusal is not None:
            self._state.heard.add(session.uid)
        now = self._clock.monotonic()
        bond = self._bonds.setdefault(session.uid, _Bond(now))
        if followed.objects is None:
            bond.missing_since = None
            return None
        found, uid = followed.objects.get(key), self._uid_of(session)
        if uid is None and (found is None or found.finished):
            sure_at = bond.looked_at
            if found is None:
                bond.missing_since = now if bond.missing_since is None else bond.missing_since
                sure_at = bond.missing_since + MISSING_SECONDS
                if now < sure_at:
                    return sure_at - now
            # A watch that is late has not heard of it yet, or shows one of its name that was there before.
            if followed.listed_at < sure_at:
                followed.doubtful.add(key)
                self._doubted.add(kind)
                self.changed.set()
                return None
        elif found is not None and (uid is None or (found.uid != bond.uid and bond.uid and _is_older(found, session))):
            uid = bond.uid = found.uid
            bond.lost_at = None
        if found is not None and found.uid == uid and not found.finished:
            return None
        if bond.uid is not None and (found is None or found.uid != uid) and now < bond.looked_at + MISSING_SECONDS:
            bond.lost_at = now if bond.lost_at is None else bond.lost_at
            if (left := bond.lost_at + _SUCCESSOR_SECONDS - now) > TICK:
                return left
        self._state.runners.setdefault(session.uid, EndedReason.OWNER_FINISHED)
        return None

    def _uid_of(self, session: AccessSession) -> str | None:
        bond, recorded = self._bonds.get(session.uid), session.status.bound_to
        if bond is not None and bond.uid is not None:
            return bond.uid
        return recorded.uid if recorded is not None else None

    def _look_at_heart(self, session: AccessSession) -> float | None:
        if session.spec.heartbeat is None:
            return None
        heart = self._hearts.get(session.uid)
        if heart is None:
            heart = self._hearts[session.uid] = _Heart(session.key, self._clock.monotonic())
            if session.status.heartbeat is not None:
                heart.seen_at = session.status.heartbeat.last_seen_at
                heart.beaten = heart.seen_at is not None
            lease = Key(session.metadata.namespace, lease_name(session.uid))
            if lease in self._renewed:  # listed before anybody looked at the session
                self.beat(lease, self._renewed[lease])
            self.changed.set()
        before, heart.awaited = heart.awaited, not heart.beaten and self._awaited(session)
        if heart.awaited:
            return None
        if before:
            heart.since = self._clock.monotonic()
        return max(session.spec.heartbeat.window - self._unheard_for(heart), 0.0) or None

    def _unheard_for(self, heart: _Heart) -> float:
        return min(self._clock.monotonic() - heart.since, self.steady_for())

    def _awaited(self, session: AccessSession) -> bool:
        """Has it not been told where to beat, or does nobody know yet where it comes from? It may not be there yet."""
        if session.status.heartbeat is None:
            return True
        found, source = self._state.whereabouts.get(session.uid), session.status.source
        known = (found is not None and found.addresses) or (source is not None and source.addresses)
        if known or session.spec.source.kind.declared:
            return False
        return found is None or found.trouble is None or not found.trouble.refused

    def unleased(self, session: AccessSession) -> bool:
        """Has a live session a heartbeat and no Lease? One that was made earlier is looked for first."""
        heart = self._hearts.get(session.uid)
        known = self._leases_listed or session.status.heartbeat is None
        return heart is not None and not heart.leased and known and session.uid not in self._state.runners

    def silent(self, session: AccessSession) -> bool:
        """Is its window over by what has been heard? Then a read has to tell whether it was heard of late."""
        heart = self._hearts.get(session.uid)
        if heart is None or heart.awaited or session.spec.heartbeat is None:
            return False
        if session.uid in self._state.runners or session.uid in self._state.closed:
            return False
        return self._unheard_for(heart) >= session.spec.heartbeat.window

    def read(self, session: AccessSession, renewed: str | None) -> None:
        """What the Lease of a silent session says, None for nothing; the session is over if that is nothing new.

        While the API server did not answer, the runner could not renew it either, and has a new window.
        """
        heart = self._hearts.get(session.uid)
        if heart is None:
            return
        before, first = heart.since, not heart.leased
        if renewed is not None:
            self.beat(Key(session.metadata.namespace, lease_name(session.uid)), renewed)
        if heart.unheard or (first and renewed is not None):
            heart.unheard, heart.since = False, self._clock.monotonic()
        if heart.since == before and self.silent(session):  # all may have begun anew while it was read
            self._state.runners.setdefault(session.uid, EndedReason.HEARTBEAT_LOST)

    def unread(self, session: AccessSession) -> None:
        """The API server has not answered, or not at once."""
        heart = self._hearts.get(session.uid)
        if heart is not None:
            heart.unheard = True

    def view(self, session: AccessSession) -> RunnerView:
        """What its status says of it."""
        spec, before = session.spec, session.status
        if spec.bound_to is None and spec.heartbeat is None:
            return _NOBODY
        uid = self._uid_of(session)
        refusal = None
        if spec.bound_to is not None:
            followed = self._kinds.get(Kind(spec.bound_to.api_version, spec.bound_to.kind))
            refusal = None if followed is None else followed.refusal
        heartbeat = before.heartbeat
        if spec.heartbeat is not None and (heart := self._hearts.get(session.uid)) is not None:
            heartbeat = HeartbeatStatus(lease_name=lease_name(session.uid), last_seen_at=heart.seen_at)
        return RunnerView(BoundToStatus(uid=uid) if uid is not None else None, refusal, heartbeat)

    def forget(self, session: AccessSession) -> None:
        """Nobody asks for its runner any more."""
        self._bonds.pop(session.uid, None)
        if self._hearts.pop(session.uid, None) is not None and not self._hearts:
            self.changed.set()
        bound = session.spec.bound_to
        if bound is None:
            return
        kind, key = Kind(bound.api_version, bound.kind), Key(session.metadata.namespace, bound.name)
        followed = self._kinds.get(kind)
        if followed is not None and session.key in followed.bound.get(key, ()):
            followed.bound[key].discard(session.key)
            if not followed.bound[key]:
                del followed.bound[key]
            if not followed.bound:
                self.changed.set()


def _is_older(found: Sighting, session: AccessSession) -> bool:
    """Was it there when the session was made, so that another one of its name was gone by then?

    Creation is told in whole seconds: of the same second nobody knows.
    """
    return found.created_at is not None and found.created_at < session.metadata.creation_timestamp


_NOBODY: Final = RunnerView()
