"""Finds rules of ours in firewall objects that nobody names any more, by their tag, and has them looked at."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Final

import structlog

from gatepass.core.errors import ProviderError, UnknownOutcomeError
from gatepass.core.ports import Access, Clock, Provider
from gatepass.core.rules import Target
from gatepass.core.types.common import Key
from gatepass.engine.grants import Grants
from gatepass.engine.queue import CLOSING_RETRY, Queue
from gatepass.engine.state import Standing, State
from gatepass.engine.vouching import Place, Vouching, place_of

log = structlog.get_logger(__name__)

_WORKERS: Final = 4
_OTHERS_FIRST_SECONDS: Final = 0.5
"""How long after the first resource was verified: what is asked by name, and is waited for, goes before."""


class Sweeper:
    """Asks each account and Region that a verified resource leads to, once after each resync.

    It revokes nothing: a target that it finds goes through an ordinary pass, in which nobody wants anything.
    """

    def __init__(
        self,
        state: State,
        grants: Grants,
        providers: Mapping[str, Provider],
        clock: Clock,
        vouching: Vouching,
        reconcile: Callable[[Target], None],
    ) -> None:
        self._state = state
        self._grants = grants
        self._providers = providers
        self._clock = clock
        self._vouching = vouching
        self._reconcile = reconcile
        self._asked: set[Place] = set()
        self._due: set[Place] = set()
        self._unnamed: dict[Place, set[Target]] = {}
        self.queue: Queue[Place] = Queue("sweep", self.run, workers=_WORKERS)

    def again(self) -> None:
        """A resync: every place is asked once more, as soon as a resource there has been verified."""
        self._asked.clear()
        led = {(each.account, each.access.region) for each in self._state.standings.values()}
        seen = self._state.strangers.items()
        self._state.strangers = {target: n for target, n in seen if (target.account, target.region) in led}

    def verified(self, key: Key) -> None:
        """A resource was verified."""
        place = _place(self._state.standings.get(key))
        if place is not None and place not in self._asked:
            self._asked.add(place)
            self._due.add(place)
            self.queue.add(place, _OTHERS_FIRST_SECONDS)

    async def run(self, place: Place) -> None:
        """Ask if that is due; then hand over what is decided, and come back for what is not."""
        if place in self._due:
            self._due.discard(place)
            await self._ask(place)
        unnamed = self._unnamed.get(place, set())
        unnamed.difference_update([target for target in unnamed if self._state.tenants.get(target)])  # named by now
        counted_on = self._counted_on({target.id for target in unnamed})
        for target in sorted(unnamed):
            if target.id not in counted_on and not self._may_be_named(target):
                unnamed.discard(target)
                self._hand_over(target, self._accesses(place))
        if unnamed:
            self.queue.retry(place, CLOSING_RETRY)  # whoever counts on it may be written down as ended at any moment
        else:
            self.queue.succeeded(place)

    async def _ask(self, place: Place) -> None:
        """Reads that fail are made again at the next resync, and not before: none of this is urgent."""
        now = self._clock.now()
        for access in self._accesses(place):
            try:
                found = await self._providers[place.provider].find(access, self._state.owner)
            except (ProviderError, UnknownOutcomeError) as error:
                log.warning("cannot look for rules by their tag", place="/".join(place), error=str(error))
                continue
            self._vouching.see_all(place, found)
            unnamed = [
                (target, rule)
                for target, rule in found
                if self._state.is_ours(rule) and target.account == place.account and not self._state.tenants.get(target)
            ]
            strange = Counter(target for target, rule in unnamed if self._vouching.stranger(target, rule, now))
            for target in sorted(strange):
                log.warning("another installation uses our install id there", target=str(target))
            elsewhere = {target: n for target, n in self._state.strangers.items() if place_of(target) != place}
            self._state.strangers = {**elsewhere, **strange}
            self._unnamed[place] = {target for target, _ in unnamed} - strange.keys()
            return

    def _accesses(self, place: Place) -> Sequence[Access]:
        standings = (self._state.standings[key] for key in sorted(self._state.standings))
        return list(dict.fromkeys(standing.access for standing in standings if _place(standing) == place))

    def _hand_over(self, target: Target, accesses: Sequence[Access]) -> None:
        if accesses and not self._state.tenants.get(target):
            log.warning("rules of ours where no ProtectedResource names the target", target=str(target))
            self._state.strays[target] = accesses
            self._state.target(target).stale = True
            self._reconcile(target)

    def _may_be_named(self, target: Target) -> bool:
        """Has somebody not been heard yet who may have rules there?"""
        return any(self._state.awaits(each, target) for each in self._state.store.resources_naming(target.id))

    def _counted_on(self, ids: Set[str]) -> set[str]:
        """Where a live session may still count on a rule; every session is asked at most once, however many targets."""
        now = self._clock.now()
        found: set[str] = set()
        for session in self._state.store.sessions.values() if ids else ():
            recorded = {
                record.target
                for entry in session.status.resources
                for record in entry.rules
                if record.target in ids and record.removed_at is None and not record.foreign
            }
            if not recorded <= found and not self._grants.closed(session, now):
                found |= recorded
        return found


def _place(standing: Standing | None) -> Place | None:
    if standing is None or standing.account is None or standing.refusal is not None:
        return None
    return Place(standing.access.provider, standing.account, standing.access.region)
