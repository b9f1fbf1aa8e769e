"""Which keys work, and when another one is made."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.core.binding_status import KeySecret, binding_status, issued, moments, next_keys
from gatepass.core.types.binding import ApiKeyBinding, IssuedKey
from gatepass.core.types.common import format_time
from tests.core import builders

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
OLD, NEW = "gp_live_old", "gp_live_new"


def a_binding(*keys: IssuedKey, **spec: Any) -> ApiKeyBinding:
    status = {"keys": [key.model_dump(mode="json", by_alias=True) for key in keys]}
    return builders.a_binding(created=NOW - HOUR, status=status, **spec)


def a_key(text: str, created: datetime = NOW - HOUR, expires: datetime | None = None) -> IssuedKey:
    return issued(text, text[-3:], created).model_copy(update={"expires_at": expires})


def names(keys: tuple[IssuedKey, ...]) -> list[str]:
    return [key.id for key in keys]


ROTATION = {"rotation": {"interval": "2h", "overlap": "30m"}}


@pytest.mark.parametrize(
    ("keys", "held", "spec", "kept", "another"),
    [
        ((), None, {}, [], True),  # a new binding
        ((a_key(NEW),), NEW, {}, ["new"], False),  # all is well
        ((a_key(NEW),), None, {}, [], True),  # the Secret was deleted, or the key never got there
        ((a_key(NEW),), "something", {}, [], True),  # somebody wrote into the Secret
        # A rotation: the old key works on for the overlap.
        ((a_key(OLD, NOW - 2 * HOUR),), OLD, ROTATION, ["old"], True),
        ((a_key(OLD, NOW - 2 * HOUR), a_key(NEW)), NEW, ROTATION, ["old", "new"], False),
        ((a_key(OLD, NOW - 2 * HOUR, NOW + HOUR / 4), a_key(NEW)), NEW, ROTATION, ["old", "new"], False),
        ((a_key(OLD, NOW - 2 * HOUR, NOW), a_key(NEW)), NEW, ROTATION, ["new"], False),
        # The operator ended between the two writes of a rotation: the old key is still the one in the Secret.
        ((a_key(OLD, NOW - 2 * HOUR), a_key(NEW)), OLD, ROTATION, ["old"], True),
        # Somebody puts the key before the last back: it never becomes the key again.
        ((a_key(OLD, NOW - 3 * HOUR, NOW), a_key(NEW)), OLD, ROTATION, [], True),
    ],
)
def test_next_keys(
    keys: tuple[IssuedKey, ...], held: str | None, spec: dict[str, Any], kept: list[str], another: bool
) -> None:
    found = next_keys(a_binding(*keys, **spec), None if held is None else KeySecret(True, held), NOW)
    assert (names(found.kept), found.another) == (kept, another)


def test_the_overlap_begins_when_the_new_key_can_be_read() -> None:
    old, new = a_key(OLD, NOW - 2 * HOUR), a_key(NEW, NOW)
    due = next_keys(a_binding(old, **ROTATION), KeySecret(True, OLD), NOW)
    assert (due.kept, due.another) == ((old,), True)
    undelivered = next_keys(a_binding(old, new, **ROTATION), KeySecret(True, OLD), NOW + HOUR)
    assert (undelivered.kept, undelivered.another) == ((old,), True)
    delivered = next_keys(a_binding(old, new, **ROTATION), KeySecret(True, NEW), NOW)
    assert [key.expires_at for key in delivered.kept] == [NOW + HOUR / 2, None]


AGE = st.integers(0, 300).map(lambda minutes: NOW - timedelta(minutes=minutes))
END = st.integers(-60, 60).map(lambda minutes: NOW + timedelta(minutes=minutes))


@given(st.lists(st.tuples(AGE, END), max_size=4), AGE, st.none() | END, st.integers(-1, 5))
def test_what_is_kept_works_and_was_there(
    before: list[tuple[datetime, datetime]], age: datetime, end: datetime | None, held: int
) -> None:
    keys = tuple(a_key(f"gp_live_{n:03}", *each) for n, each in enumerate([*before, (age, end)]))
    found = next_keys(a_binding(*keys, **ROTATION), KeySecret(True, f"gp_live_{held:03}"), NOW)
    assert {key.hash for key in found.kept} <= {key.hash for key in keys}
    assert all(key.expires_at is None or key.expires_at > NOW for key in found.kept)
    # A key stays without an end only while it is the one that is handed out.
    assert all(key.id == f"{held:03}" for key in found.kept if key.expires_at is None)
    assert len(found.kept) <= len(keys)


@pytest.mark.parametrize(
    ("spec", "works"),
    [
        ({}, True),
        ({"revoked": True}, False),
        ({"expiresAt": format_time(NOW + HOUR)}, True),
        ({"expiresAt": format_time(NOW)}, False),
    ],
)
def test_which_keys_work(spec: dict[str, Any], works: bool) -> None:
    assert bool(a_binding(a_key(NEW), **spec).live_hashes(NOW)) == works


def test_a_key_hash_works_without_a_secret() -> None:
    binding = a_binding(secretName=None, keyHash="0" * 64)
    assert binding.live_hashes(NOW) == ("0" * 64,)


def told(
    binding: ApiKeyBinding, now: datetime = NOW, *, conflict: bool = False, trusted: bool = True
) -> dict[str, tuple[str, str]]:
    status = binding_status(binding, binding.status.keys, None, now, conflict=conflict, trusted=trusted)
    return {each.type: (each.status, each.reason) for each in status.conditions}


def test_conditions() -> None:
    assert told(a_binding(a_key(NEW))) == {"Ready": ("True", "Ready")}
    assert told(a_binding(revoked=True)) == {"Ready": ("False", "Revoked")}
    expired = a_binding(expiresAt=format_time(NOW))
    assert told(expired) == {"Ready": ("False", "Expired"), "Expired": ("True", "Expired")}
    conflict = {"Ready": ("False", "SecretConflict"), "SecretConflict": ("True", "NotOurs")}
    assert told(a_binding(), conflict=True) == conflict
    assert told(a_binding(), trusted=False) == {"Ready": ("False", "RequesterUnverified")}


def test_a_rotation_is_announced_before_it_is_due() -> None:
    binding = a_binding(a_key(NEW, NOW), **ROTATION)
    assert "RotationDue" not in told(binding, NOW)
    early, due = [moment - NOW for moment in sorted(moments(binding, binding.status.keys))]
    assert (early, due) == (timedelta(hours=1, minutes=48), 2 * HOUR)
    assert told(binding, NOW + early)["RotationDue"] == ("True", "Due")


def test_no_status_tells_a_key() -> None:
    assert NEW not in repr(KeySecret(True, NEW))
    status = binding_status(a_binding(a_key(NEW)), (a_key(NEW),), None, NOW, conflict=False, trusted=True)
    assert NEW not in status.model_dump_json()
