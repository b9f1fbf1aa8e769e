"""Whose a key is."""

from datetime import timedelta

from gatepass.engine.store import Store
from tests.core.builders import NOON, a_binding

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
