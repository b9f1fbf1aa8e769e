"""Whose a key is, and which sessions count."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from gatepass.core.types.session import Phase
from gatepass.engine.store import Store
from tests.core.builders import NOON, a_binding, a_resource, a_session

DIGEST = "0" * 64


def test_a_key_is_the_oldest_bindings_and_nobodys_when_that_cannot_be_told() -> None:
    store = Store()
    first = a_binding(secretName=None, keyHash=DIGEST, metadata={"resourceVersion": "1"})
    copy = a_binding(
        namespace="other",
        created=NOON + timedelta(seconds=1),
        secretName=None,
        keyHash=DIGEST,
        metadata={"resourceVersion": "1"},
    )
    twin = a_binding(namespace="twin", secretName=None, keyHash=DIGEST, metadata={"resourceVersion": "1"})
    assert store.bound_to(DIGEST) is None
    store.put_binding(copy)
    assert store.bound_to(DIGEST) == copy
    store.put_binding(first)
    assert store.bound_to(DIGEST) == first
    store.put_binding(twin)
    assert store.bound_to(DIGEST) is None
    store.remove_binding(twin.key, twin.uid)
    assert store.bound_to(DIGEST) == first
    store.remove_binding(first.key, first.uid)
    store.remove_binding(copy.key, copy.uid)
    assert store.bound_to(DIGEST) is None


@pytest.mark.parametrize("phase", Phase)
def test_records_of_what_is_over_are_not_gone_through(phase: Phase) -> None:
    store = Store()
    session = a_session(metadata={"resourceVersion": "1"})
    store.put_session(session)
    (resource,) = session.resource_keys()
    assert list(store.sessions_of(resource)) == [session]
    changed = {
        "metadata": session.metadata.model_copy(update={"resource_version": "2"}),
        "status": session.status.model_copy(update={"phase": phase}),
    }
    store.put_session(session.model_copy(update=changed))
    over = phase in (Phase.EXPIRED, Phase.CANCELLED)
    assert [each.status.phase for each in store.sessions_of(resource)] == ([] if over else [phase])


@pytest.mark.parametrize("build", [a_session, a_resource, a_binding])
def test_what_another_one_has_replaced_does_not_come_back(build: Callable[..., Any]) -> None:
    """Creation is told in whole seconds, and a listing may tell of no deletion."""
    store = Store()
    put = {a_session: store.put_session, a_resource: store.put_resource, a_binding: store.put_binding}[build]
    old, new, late = (
        build(metadata={"uid": uid, "resourceVersion": version})
        for uid, version in (("old", "1"), ("new", "5"), ("old", "3"))
    )
    assert [put(each) for each in (old, new, late)] == [True, True, False]
    assert [put(each) for each in (old, build(metadata={"uid": "new", "resourceVersion": "6"}))] == [False, True]


@pytest.mark.parametrize("build", [a_session, a_resource, a_binding])
def test_nor_is_it_taken_for_the_newer_one(build: Callable[..., Any]) -> None:
    store = Store()
    put = {a_session: store.put_session, a_resource: store.put_resource, a_binding: store.put_binding}[build]
    new, old, later = (
        build(metadata={"uid": uid, "resourceVersion": version})
        for uid, version in (("new", "20"), ("old", "10"), ("new", "21"))
    )
    assert [put(each) for each in (new, old, later)] == [True, False, True]
