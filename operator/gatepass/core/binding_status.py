"""Which keys of an ApiKeyBinding work, when it gets another one, and what its status says."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from gatepass.core.conditions import Fact, assert_conditions
from gatepass.core.keys import key_hash
from gatepass.core.types.binding import ApiKeyBinding, ApiKeyBindingStatus, IssuedKey, Rotation, Vouched

UNVOUCHED: Final = (
    "it was made, or changed, while Gatepass's admission policies were not in force, or they are not now: "
    "install them (gatepass manifests), and create it again"
)
"""Of a binding: nobody vouches for who did."""


@dataclass(frozen=True, slots=True)
class KeySecret:
    """The Secret that holds a key: `owned` by the binding, and the `text` in it."""

    owned: bool
    text: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class NextKeys:
    """The keys that are kept, and whether another one has to be made."""

    kept: tuple[IssuedKey, ...]
    another: bool


def next_keys(binding: ApiKeyBinding, secret: KeySecret | None, now: datetime) -> NextKeys:
    """Only the key that the Secret holds is handed out; one that never got there, or was taken out of it, is dropped.

    Somebody who edits or deletes the Secret so ends its key: what is put there instead is always a new one.
    """
    text = secret.text if secret is not None else None
    held = key_hash(text) if text is not None else None
    live = tuple(key for key in binding.status.keys if key.expires_at is None or key.expires_at > now)
    newest = live[-1] if live else None
    if newest is None or newest.hash != held:
        # The one before is still in the Secret when a rotation is not finished yet.
        return NextKeys(tuple(key for key in live if key.hash == held or key.expires_at is not None), another=True)
    # The overlap begins when the new key can be read: however long that takes, there is always one that works.
    end = now + (binding.spec.rotation or Rotation()).overlap
    before = tuple(key if key.expires_at else key.model_copy(update={"expires_at": end}) for key in live[:-1])
    rotation = binding.spec.rotation
    due = rotation is not None and now >= newest.created_at + rotation.interval
    return NextKeys((*before, newest), another=due)


def issued(key: str, id_: str, now: datetime) -> IssuedKey:
    """What is kept of a new key."""
    return IssuedKey(id=id_, hash=key_hash(key), created_at=now)


def notice(binding: ApiKeyBinding) -> timedelta:
    """How long before a rotation it is announced."""
    rotation = binding.spec.rotation
    return min(rotation.overlap, rotation.interval / 10) if rotation is not None else timedelta()


def rotates_at(binding: ApiKeyBinding, keys: Iterable[IssuedKey]) -> datetime | None:
    """When the newest key is replaced."""
    newest = next(iter(reversed(tuple(keys))), None)
    rotation = binding.spec.rotation
    return None if rotation is None or newest is None else newest.created_at + rotation.interval


def moments(binding: ApiKeyBinding, keys: Iterable[IssuedKey]) -> list[datetime]:
    """When time alone changes the status."""
    keys = tuple(keys)
    rotates = rotates_at(binding, keys)
    expiries = [binding.spec.expires_at, *(key.expires_at for key in keys)]
    due = [] if rotates is None else [rotates - notice(binding), rotates]
    return [*due, *(at for at in expiries if at is not None)]


def binding_status(
    binding: ApiKeyBinding,
    keys: tuple[IssuedKey, ...],
    vouched: Vouched | None,
    now: datetime,
    *,
    conflict: bool,
    trusted: bool,
) -> ApiKeyBindingStatus:
    """The whole status; what was last used is the REST API's to tell.

    `conflict`: the Secret is somebody else's. `trusted`: it is known who made the binding, and who changed it.
    """
    return binding.status.model_copy(
        update={
            "keys": keys,
            "vouched": vouched,
            "conditions": assert_conditions(
                binding.status.conditions,
                _facts(binding, keys, now, conflict=conflict, trusted=trusted),
                now,
                binding.metadata.generation,
            ),
            "observed_generation": binding.metadata.generation,
        }
    )


def _facts(
    binding: ApiKeyBinding, keys: tuple[IssuedKey, ...], now: datetime, *, conflict: bool, trusted: bool
) -> list[Fact]:
    spec = binding.spec
    expired = spec.expires_at is not None and spec.expires_at <= now
    facts = []
    if spec.revoked:
        facts.append(Fact("Ready", False, "Revoked", "spec.revoked was set"))
    elif expired:
        facts.append(Fact("Ready", False, "Expired", "spec.expiresAt has passed"))
        facts.append(Fact("Expired", True, "Expired", "spec.expiresAt has passed"))
    elif conflict:
        message = f"Secret {spec.secret_name} is not ours: remove it, or name another one in a new ApiKeyBinding"
        facts.append(Fact("Ready", False, "SecretConflict", message))
        facts.append(Fact("SecretConflict", True, "NotOurs", message))
    elif not trusted:
        facts.append(Fact("Ready", False, "RequesterUnverified", f"it starts no session, as {UNVOUCHED}"))
    else:
        facts.append(Fact("Ready", True, "Ready"))
    rotates = rotates_at(binding, keys)
    if rotates is not None and now >= rotates - notice(binding) and not spec.revoked:
        facts.append(Fact("RotationDue", True, "Due", f"a new key is written at {rotates:%Y-%m-%dT%H:%M:%SZ}"))
    return facts
