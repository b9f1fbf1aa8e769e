"""Tells the audit trail what the engine decides and does; nothing is read back from it."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from gatepass.core.audit import INSTALLATION, AuditEntry, EventType, Subject
from gatepass.core.binding_audit import binding_deleted, binding_entries
from gatepass.core.policy import AUDIT_UNAVAILABLE, Refusal
from gatepass.core.ports import Audit, AuditError, Clock
from gatepass.core.rules import Target
from gatepass.core.session_audit import moved, news, resource_deleted, resource_entry, session_entries, started
from gatepass.core.stamps import requester_of
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, AccessSessionStatus
from gatepass.engine.store import Store

_AT_ONCE: Final = 500
_AGAIN_SECONDS: Final = 2.0


class Journal:
    """`audit` is None when the installation keeps no trail. `required`: nothing opens before its entry is durable."""

    def __init__(self, audit: Audit | None, clock: Clock, *, required: bool) -> None:
        self._audit = audit
        self._clock = clock
        self._required = required
        self._openings: dict[str, asyncio.Task[None]] = {}
        self._unavailable: set[str] = set()

    # what was done

    def reported(self, session: AccessSession, status: AccessSessionStatus) -> None:
        """A status was written; `session` is as it was before."""
        if self._audit is not None:
            self._audit.record(*news(session, status, self._clock.now()))

    def moved(self, session: AccessSession, before: datetime, after: datetime) -> None:
        """A session was changed, and its end may be another than before."""
        if self._audit is not None and (told := moved(session, before, after, self._clock.now())) is not None:
            self._audit.record(told)

    def resource_seen(self, resource: ProtectedResource) -> None:
        """A resource was created or changed."""
        if self._audit is not None and not resource.deleting:  # which counts as a new generation
            self._audit.record(resource_entry(resource, self._clock.now()))

    def resource_gone(self, resource: ProtectedResource) -> None:
        """A resource was deleted."""
        if self._audit is not None:
            self._audit.record(resource_deleted(resource, self._clock.now()))

    def binding_seen(self, binding: ApiKeyBinding) -> None:
        """A key was bound, changed, or issued."""
        if self._audit is not None and not binding.deleting:
            self._audit.record(*binding_entries(binding, self._clock.now()))

    def binding_gone(self, binding: ApiKeyBinding) -> None:
        """A binding was deleted."""
        if self._audit is not None:
            self._audit.record(binding_deleted(binding, self._clock.now()))

    def firewall(self, event: EventType, target: Target, id_: str, rule: object, description: str) -> None:
        """A rule was put or removed, for whomever; no tenant is shown it, as it may be shared by several."""
        if self._audit is not None:
            self._audit.record(
                AuditEntry(
                    event=event,
                    at=self._clock.now(),
                    namespace=INSTALLATION,
                    subject=Subject("FirewallRule", id_),
                    details={"target": str(target), "rule": str(rule), "description": description},
                )
            )

    async def run(self, store: Store) -> None:
        """Tell again what the sessions' records tell: an earlier process may not have lived to write all of it.

        Then holds the openings that wait, until cancelled.
        """
        try:
            entries: list[AuditEntry] = []
            for session in list(store.sessions.values()) if self._audit is not None else ():
                entries += session_entries(session, session.status)
                if len(entries) >= _AT_ONCE:
                    await self._written_at_last(entries)
                    entries = []
            await self._written_at_last(entries)
            await asyncio.Event().wait()
        finally:
            for opening in self._openings.values():
                opening.cancel()

    async def _written_at_last(
        self, entries: Sequence[AuditEntry], unavailable: Callable[[], None] = lambda: None
    ) -> None:
        while self._audit is not None:
            try:
                await self._audit.written(*entries)
            except AuditError:
                unavailable()
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                return

    # what may be done

    def may_decide(self, session: AccessSession, again: Callable[[Key], None]) -> bool:
        """False while the entry of a session is on its way, which holds up no pass: `again` is called with news of it.

        True as well when it cannot be written, and `refusal` says so.
        """
        if self._audit is None or not self._required:
            return True
        if session.uid not in self._openings:
            self._openings[session.uid] = asyncio.create_task(self._open(session, again), name=f"audit {session.key}")
        return self._openings[session.uid].done() or session.uid in self._unavailable

    async def _open(self, session: AccessSession, again: Callable[[Key], None]) -> None:
        def unavailable() -> None:
            if session.uid not in self._unavailable:
                self._unavailable.add(session.uid)
                again(session.key)

        await self._written_at_last([started(session, requester_of(session))], unavailable)
        self._unavailable.discard(session.uid)
        asyncio.get_running_loop().call_soon(again, session.key)  # once this task is done

    def refusal(self, session: AccessSession) -> Refusal | None:
        """Why the session may not be opened yet."""
        if session.uid not in self._unavailable:
            return None
        return Refusal(AUDIT_UNAVAILABLE, "the audit trail cannot be written, and nothing is opened without it")

    def forget(self, session: AccessSession) -> None:
        """The session is no more."""
        self._unavailable.discard(session.uid)
        opening = self._openings.pop(session.uid, None)
        if opening is not None:
            opening.cancel()
