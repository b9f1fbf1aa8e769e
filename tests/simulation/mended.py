"""Defects of the engine that would end every run, mended from outside until they are mended inside.

Each has a scenario in test_found.py that runs without this, and says what it is. When it passes, its entry goes.
"""

from typing import Final

from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession
from gatepass.engine.engine import Engine

KNOWN: Final = frozenset(
    {
        "an edit in an answer",
        "a grant in flight",
        "a rule of two resources",
        "an end told twice",
        "ids forgotten at a restart",
        "records dropped before anything is verified",
    }
)


def mend(engine: Engine, known: frozenset[str]) -> None:
    """Make the engine as if it had not this one; the laws and the generator leave the others out, by name."""
    if "an edit in an answer" in known:
        _look_again_at_what_answers_bring(engine)


def _look_again_at_what_answers_bring(engine: Engine) -> None:
    """An edit that the answer to a status write carries is news, as if a watch had told it."""
    store = engine.store
    put_session, put_resource = store.put_session, store.put_resource

    def session(seen: AccessSession) -> bool:
        before = store.sessions.get(seen.key)
        news = put_session(seen)
        if news and before is not None and _edited(before, seen):
            engine._sessions.queue.add(seen.key)
        return news

    def resource(seen: ProtectedResource) -> bool:
        before = store.resources.get(seen.key)
        news = put_resource(seen)
        if news and before is not None and _edited(before, seen):
            engine._verifier.queue.add(seen.key)
            engine._touch_targets(seen.key)
            engine._touch_users(seen.key)
            engine._resources.queue.add(seen.key)
        return news

    store.put_session = session  # type: ignore[method-assign]
    store.put_resource = resource  # type: ignore[method-assign]


def _edited(before: AccessSession | ProtectedResource, after: AccessSession | ProtectedResource) -> bool:
    return (before.metadata.generation, before.held) != (after.metadata.generation, after.held)
