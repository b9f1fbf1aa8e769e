"""May the requester use what a session names? Asked before the first grant, and again for as long as that waits."""

import asyncio
from collections.abc import Sequence
from typing import Final

from gatepass.core.binding_status import UNVOUCHED
from gatepass.core.desired import ClaimKey
from gatepass.core.policy import KEY_UNKNOWN, UNANSWERED, Refusal
from gatepass.core.ports import Cluster, ClusterError
from gatepass.core.stamps import binder_of, requester_of
from gatepass.core.types.common import Key, SourceKind, format_duration
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession
from gatepass.engine.binders import vouched_now
from gatepass.engine.grants import key_of, was_granted
from gatepass.engine.journal import Journal
from gatepass.engine.state import NOT_ASKED, State, Unanswered

ASK_AGAIN_SECONDS: Final = 30.0
"""How old a yes is at most while a session waits: rights may be taken away meanwhile."""


class Admission:
    """Keeps the answers in `state`; what was granted once is not asked about again."""

    def __init__(self, state: State, cluster: Cluster, journal: Journal, *, unverified: bool) -> None:
        self._state = state
        self._cluster = cluster
        self._journal = journal
        self._unverified = unverified
        self._asked: dict[tuple[str, Key], float] = {}

    async def ask(self, session: AccessSession) -> Sequence[Refusal | None]:
        """The answers for what is not granted yet, a yes some seconds old at most; raises ClusterError, GoneError."""
        answers = []
        for resource in self._waiting(session):
            question = session.uid, resource.key
            if self._is_due(session, resource):
                try:
                    answer = await self._answer(session, resource.key)
                except ClusterError:
                    self._state.admitted[question] = self._unanswered(question)
                    raise
                self._state.admitted[question] = answer
                self._asked[question] = asyncio.get_running_loop().time()
            answers.append(self._state.admitted[question])
        return answers

    def _unanswered(self, question: tuple[str, Key]) -> Refusal:
        before = self._state.admitted.get(question)
        if before is not None:  # a no stands, and keeps no place in line
            return before
        told = "the API server does not say whether the requester may still use it"
        return Unanswered(UNANSWERED, told, asyncio.get_running_loop().time())

    def _waiting(self, session: AccessSession) -> Sequence[ProtectedResource]:
        resources = self._state.store.resources_of(session)
        return [each for each in resources if not was_granted(session.resource_status(each.key))]

    def _is_due(self, session: AccessSession, resource: ProtectedResource) -> bool:
        """Not while what was admitted is being opened, or is open and was not told yet."""
        question = session.uid, resource.key
        if self._state.admitted.get(question, NOT_ASKED) is not None:
            return True
        if self._is_opened(session, resource):
            return False
        return asyncio.get_running_loop().time() >= self._asked[question] + ASK_AGAIN_SECONDS

    def _is_opened(self, session: AccessSession, resource: ProtectedResource) -> bool:
        placed = self._state.placements.of(ClaimKey(session.uid, resource.uid))
        known = ((self._state.target(target), rule) for rule, target in placed.items())
        return any(rule in target.coming or rule in target.holding() for target, rule in known)

    def key_changed(self, session: AccessSession) -> None:
        """What its key opens, or who vouches for that, is otherwise now: nothing opens before it is asked for anew."""
        for resource in self._waiting(session):
            if not self._is_opened(session, resource):
                question = session.uid, resource.key
                self._state.admitted[question] = self._unanswered(question)

    def forget(self, session: AccessSession) -> None:
        """The session is no more."""
        for key in session.resource_keys():
            self._state.admitted.pop((session.uid, key), None)
            self._asked.pop((session.uid, key), None)

    async def _answer(self, session: AccessSession, key: Key) -> Refusal | None:
        """By the binding as it is when all has been asked."""
        while True:
            generation = self._generation(session)
            answer = await self._admission(session, key)
            if generation == self._generation(session):
                return answer

    def _generation(self, session: AccessSession) -> tuple[str, int] | None:
        """That of the binding of its key."""
        key = key_of(requester_of(session))
        binding = self._state.store.bindings.get(key) if key is not None else None
        return None if binding is None else (binding.uid, binding.metadata.generation)

    async def _admission(self, session: AccessSession, key: Key) -> Refusal | None:
        if (untold := self._journal.refusal(session)) is not None:
            return untold
        requester = requester_of(session)
        if requester is None:
            return Refusal("RequesterUnknown", "the annotation gatepass.dev/requested-by is missing or cannot be read")
        if not self._unverified and (unverified := await self._unvouched(session)):
            return unverified
        binding = key_of(requester)
        if binding is not None:
            return await self._by_key(binding, session, key)
        if session.spec.source.kind is SourceKind.REQUEST:
            return Refusal("SourceNotAllowed", "spec.source.request: only the REST API may say what it saw")
        if await self._cluster.may_use(requester, key):
            return None
        return Refusal(
            "NotAuthorized",
            f'user "{requester.username}" may not use ProtectedResource {key}: '
            'needs the verb "use" on protectedresources',
        )

    async def _by_key(self, binding_key: Key, session: AccessSession, key: Key) -> Refusal | None:
        """What the REST API has asked before it created the session, and admission before there was the key."""
        binding = self._state.store.bindings.get(binding_key)
        if binding is None or session.metadata.namespace != binding_key.namespace:
            return Refusal(KEY_UNKNOWN, f"there is no ApiKeyBinding {binding_key}")
        if not binding.opens(key):
            return Refusal("NotAuthorized", f"ApiKeyBinding {binding_key} does not open ProtectedResource {key}")
        if session.spec.duration > binding.spec.max_duration:
            longest = format_duration(binding.spec.max_duration)
            return Refusal("DurationTooLong", f"spec.duration is above the {longest} of ApiKeyBinding {binding_key}")
        binder = binder_of(binding)
        if binder is None:
            told = f"nobody vouches for ApiKeyBinding {binding_key}: it has no stamp of who made it, so create it again"
            return Refusal("RequesterUnknown", told)
        if not self._unverified and await vouched_now(self._cluster, binding) is None:
            return Refusal("RequesterUnverified", f"nobody vouches for ApiKeyBinding {binding_key}: {UNVOUCHED}")
        if not await self._cluster.may_use(binder, key):
            return Refusal(
                "NotAuthorized",
                f'user "{binder.username}", who made or last changed ApiKeyBinding {binding_key}, may not use '
                f'ProtectedResource {key}: needs the verb "use" on protectedresources',
            )
        return None

    async def _unvouched(self, session: AccessSession) -> Refusal | None:
        since = await self._cluster.requesters_verified_since()
        if since is None:
            return Refusal(
                "RequesterUnverified",
                "Gatepass's admission policies are not in force, so that nobody vouches for "
                "the annotation gatepass.dev/requested-by: install them (gatepass manifests)",
            )
        if session.metadata.creation_timestamp <= since:
            return Refusal(
                "RequesterUnverified",
                "the session is older than Gatepass's admission policies, so that nobody vouches for "
                "its annotation gatepass.dev/requested-by: create it again",
            )
        return None
