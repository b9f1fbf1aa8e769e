"""Where sessions come from that do not declare it: looked for, kept, and followed when it changes."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import structlog

from gatepass.core.errors import PartlyFoundError, SourceError
from gatepass.core.policy import Refusal, cidr_refusal
from gatepass.core.ports import Clock, SourceFinder
from gatepass.core.status import ResourceView, seen_from
from gatepass.core.types.common import Key, SourceKind
from gatepass.core.types.session import LONGEST_EVIDENCE, AccessSession, SourceAddress
from gatepass.engine.grants import Grants
from gatepass.engine.queue import Queue
from gatepass.engine.state import State, Whereabouts

log = structlog.get_logger(__name__)

LONGEST_LOOK_SECONDS: Final = 30.0
MOST_ADDRESSES: Final = 64
"""More than any way out of a cloud has, and what a status takes."""

Addresses = tuple[SourceAddress, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Move:
    """From the old and the new addresses of a session to the new ones alone."""

    uid: str
    before: Whereabouts
    after: Whereabouts


class Sources:
    """Asks the finders, one session at a time each, and decides what their answers change.

    What a granted session rests on is never taken from it because a finder is slow, down, unsure or says no: only
    another answer moves it, and only where every resource lets it.
    """

    def __init__(
        self,
        state: State,
        grants: Grants,
        finders: Mapping[SourceKind, SourceFinder],
        clock: Clock,
        found: Callable[[Key], None],
    ) -> None:
        self._state = state
        self._grants = grants
        self._finders = finders
        self._clock = clock
        self._found = found
        self.queue: Queue[Key] = Queue("source", self.find, workers=64)

    # when to look

    def look(self, session: AccessSession) -> None:
        """Look for the first time, for a session that may have something once it is known where it comes from."""
        if session.spec.source.kind.declared or session.uid in self._state.whereabouts:
            return
        if self._grants.accepted(session, self._clock.now()):
            self._state.whereabouts[session.uid] = Whereabouts()
            self.queue.add(session.key)

    def changed(self, key: Key) -> None:
        """Look again: what the answer rests on has changed. Before the first look there is nothing to do."""
        session = self._state.store.sessions.get(key)
        if session is not None and session.uid in self._state.whereabouts:
            self.queue.add(key)

    def again(self) -> None:
        """Look again for every session: what finders find may change without an event."""
        for key in list(self._state.store.sessions):
            self.changed(key)

    def policy_changed(self, resource: Key) -> None:
        """What was not to be followed may be followed now."""
        for session in self._state.store.sessions_of(resource):
            found = self._state.whereabouts.get(session.uid)
            if found is None or not found.elsewhere:
                continue
            if session.spec.source.kind.seen_calling:  # where it was seen first is what it has asked for
                self._follow(session, found, found.addresses, found.elsewhere, found.trouble)
            else:
                self._take(session, found.elsewhere, found.trouble)

    def forget(self, session: AccessSession) -> None:
        """The session is no more."""
        self.queue.forget(session.key)
        self._state.whereabouts.pop(session.uid, None)

    # one look

    async def find(self, key: Key) -> None:
        """Ask the finder of the session's kind."""
        session = self._state.store.sessions.get(key)
        if session is None or session.uid not in self._state.whereabouts or self._over(session):
            self.queue.succeeded(key)
            return
        try:
            found: Addresses | SourceError = await self._ask(session)
        except SourceError as error:
            found = error
        now = self._state.store.sessions.get(key)
        if now is None or now.uid != session.uid or now.uid not in self._state.whereabouts or self._over(now):
            return
        if isinstance(found, PartlyFoundError):
            self._take_part(now, found)
        elif isinstance(found, SourceError):
            self._not_found(now, found)
        else:
            self.queue.succeeded(key)
            self._take(now, found)

    def _not_found(self, session: AccessSession, why: SourceError) -> None:
        log.info("source not found", session=str(session.key), reason=why.reason, error=why.message)
        # Who has got nothing by what was found before does not get it any more.
        keeps = why.retry or self._grants.has_been_granted(session)
        known = self._state.whereabouts[session.uid] if keeps else Whereabouts()
        self._put(session, replace(known, trouble=why))
        (self.queue.retry if why.retry else self.queue.succeeded)(session.key)

    def _over(self, session: AccessSession) -> bool:
        return self._grants.end(session, self._clock.now()) is not None

    async def _ask(self, session: AccessSession) -> Addresses:
        finder, where = self._finders.get(session.spec.source.kind), f"spec.source.{session.spec.source.kind}"
        if finder is None:
            told = f"{where}: this installation of Gatepass does not find addresses in that way"
            raise SourceError("SourceNotAvailable", told)
        try:
            async with asyncio.timeout(LONGEST_LOOK_SECONDS):
                found = tuple(await finder.find(session))
        except PartlyFoundError as error:
            raise replace(error, addresses=_checked(error.addresses, where)) from None
        except TimeoutError:
            told = f"{where}: no answer within {LONGEST_LOOK_SECONDS:g} s"
            raise SourceError("SourceTimeout", told, retry=True) from None
        return _checked(found, where)

    # what an answer changes

    def heed(self, session: AccessSession) -> None:
        """Its heartbeats came from where its status says: each replaces the address of the same family.

        Only for sessions that come from where somebody was seen calling: what is declared, or known from the cloud's
        topology, no caller changes.
        """
        seen = seen_from(session)
        if not seen or not session.spec.source.kind.seen_calling:
            return
        used = self._grants.addresses(session)
        if not used or self._over(session):
            return
        before = self._state.whereabouts.setdefault(session.uid, Whereabouts(used))
        others = _of_other_families(before.moving_to or used, seen)
        self._follow(session, before, used, (*others, *map(_as_stored, seen)))

    def arrived(self, session: AccessSession, views: Sequence[ResourceView]) -> Move | None:
        """The end of a move, once every rule for the new addresses is there.

        A resource that refuses the session keeps nobody waiting; where there is no room for both, the old rules go
        first: nobody comes from there any more.
        """
        known = self._state.whereabouts.get(session.uid)
        if known is None or not known.moving_to:
            return None
        arrived = [view.complete or view.waiting is not None for view in views]
        if not all(there or view.refusal for there, view in zip(arrived, views, strict=True)) or not any(arrived):
            return None
        return Move(session.uid, known, Whereabouts(known.moving_to, known.trouble))

    def supposing(self, move: Move, ask: Callable[[], T]) -> T:
        """What would be so if the addresses that the session has left were dropped; `ask` does not await."""
        self._state.whereabouts[move.uid] = move.after
        try:
            return ask()
        finally:
            self._state.whereabouts[move.uid] = move.before

    def settle(self, move: Move) -> None:
        """Drop them: the status no longer promises them. Unless something else was found meanwhile."""
        if self._state.whereabouts.get(move.uid) is move.before:
            self._state.whereabouts[move.uid] = move.after

    def _take_part(self, session: AccessSession, partly: PartlyFoundError) -> None:
        """What is known of the other families stands. One that nobody ever answered over holds nobody up."""
        known = self._state.whereabouts[session.uid].moving_to or self._grants.addresses(session)
        if not known and partly.heard:  # to open for half of the traffic would make a job that hangs
            self._not_found(session, partly)
            return
        kept = _of_other_families(known, partly.addresses)
        if kept:
            log.info("source partly found", session=str(session.key), reason=partly.reason, error=partly.message)
        (self.queue.retry if kept else self.queue.succeeded)(session.key)
        whole = sorted((*partly.addresses, *kept), key=lambda address: address.version)
        self._take(session, tuple(whole), partly if kept else None)

    def _take(self, session: AccessSession, found: Addresses, trouble: SourceError | None = None) -> None:
        before = self._state.whereabouts[session.uid]
        used = self._grants.addresses(session)
        if session.spec.source.kind is SourceKind.CLAIM:
            self._put(session, replace(before, addresses=used, trouble=None))  # which are those on record
        elif not used or not self._grants.has_been_granted(session):
            self._put(session, Whereabouts(found, trouble))
        else:
            self._follow(session, before, used, found, trouble)

    def _follow(
        self,
        session: AccessSession,
        before: Whereabouts,
        used: Addresses,
        found: Addresses,
        trouble: SourceError | None = None,
    ) -> None:
        if _ips(found) == _ips(before.moving_to or used):
            told = _as_told_before(used, found)
            moving = {"moving_to": told} if before.moving_to else {"addresses": told}
            self._put(session, replace(before, **moving, trouble=trouble, elsewhere=(), unfollowed=None))
            return
        both = (*used, *(each for each in found if each.ip not in _ips(used)))
        if (why := self._stays(session, found, both)) is not None:
            where = ", ".join(f"{each.ip} ({each.evidence})" for each in found)
            unfollowed = f"traffic leaves from {where} now, and the rules stay where they are: {why.message}"
            unmoved = replace(before, addresses=used, trouble=trouble, elsewhere=found, unfollowed=unfollowed)
            self._put(session, unmoved)
            return
        log.info("follows", session=str(session.key), before=sorted(_ips(used)), now=sorted(_ips(found)))
        self._put(session, Whereabouts(both, trouble, moving_to=_as_told_before(used, found)))

    def _stays(self, session: AccessSession, found: Addresses, both: Addresses) -> Refusal | None:
        """Why the rules may not move there; while they move, the old and the new ones are there."""
        ranges = tuple(each.cidr for each in both)
        if len(ranges) > MOST_ADDRESSES:
            return _too_many_addresses(len(ranges))
        for key in session.resource_keys():
            resource = self._state.store.resources.get(key)
            if resource is None:
                continue
            if not resource.spec.policy.follow_address_changes:
                field = "policy.followAddressChanges"
                return Refusal("NotFollowed", f"ProtectedResource {key} does not allow to follow ({field} is false)")
            if (
                refused := self._grants.moved_refusal(session, resource, tuple(each.cidr for each in found))
            ) is not None:
                return refused
        return self._grants.too_many(session, ranges)

    def _put(self, session: AccessSession, after: Whereabouts) -> None:
        if self._state.whereabouts.get(session.uid) != after:
            self._state.whereabouts[session.uid] = after
            self._found(session.key)


def _ips(addresses: Addresses) -> set[str]:
    return {address.ip for address in addresses}


def _of_other_families(known: Addresses, found: Addresses) -> Addresses:
    """What an answer that speaks of its own IP families alone says nothing about."""
    versions = {each.version for each in found}
    return tuple(each for each in known if each.version not in versions)


def _as_told_before(before: Addresses, found: Addresses) -> Addresses:
    """What is found again unchanged was observed when it was found first: its time is no news."""
    known = {(address.ip, address.evidence): address for address in before}
    return tuple(known.get((address.ip, address.evidence), address) for address in found)


def _too_many_addresses(number: int) -> Refusal:
    return Refusal("TooManyAddresses", f"there are {number} addresses, and {MOST_ADDRESSES} are the most")


def _checked(found: Addresses, where: str) -> Addresses:
    """What no policy can allow is no answer; raises SourceError."""
    refused = next(filter(None, (cidr_refusal(address.cidr, where) for address in found)), None)
    if not found:
        refused = Refusal("NoAddress", f"{where}: nothing was found")
    if len(found) > MOST_ADDRESSES:
        refused = _too_many_addresses(len(found))
    if refused is not None:
        raise SourceError(refused.reason, refused.message)
    return tuple(map(_as_stored, found))


def _as_stored(address: SourceAddress) -> SourceAddress:
    """As it comes back from a status; otherwise what has been written would differ from what is to be written."""
    at = address.observed_at and address.observed_at.replace(microsecond=0)
    return address.model_copy(update={"observed_at": at, "evidence": address.evidence[:LONGEST_EVIDENCE]})
