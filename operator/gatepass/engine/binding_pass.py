"""One pass over one ApiKeyBinding: make its key, write it, replace it, and say so."""

import os
from dataclasses import dataclass, field
from datetime import datetime

from gatepass.core.binding_status import binding_status, issued, moments, next_keys
from gatepass.core.keys import ENTROPY_BYTES, key_hash, key_id, make_key
from gatepass.core.ports import Clock, Cluster
from gatepass.core.types.binding import ApiKeyBinding, IssuedKey
from gatepass.core.types.common import Key
from gatepass.engine.attempts import attempt, next_look
from gatepass.engine.binders import vouched_now
from gatepass.engine.journal import Journal
from gatepass.engine.queue import Queue
from gatepass.engine.state import State


@dataclass(frozen=True, slots=True)
class _Untold:
    """A key whose hash is in the status, and that could not be written yet instead of what the Secret holds."""

    text: str = field(repr=False)
    instead_of: str | None = field(repr=False)


class BindingPass:
    """A key works before anybody can read it: its hash is written first, and then the Secret."""

    def __init__(
        self, state: State, cluster: Cluster, clock: Clock, journal: Journal, look_seconds: float, *, unverified: bool
    ) -> None:
        self._state = state
        self._cluster = cluster
        self._clock = clock
        self._journal = journal
        self._look_seconds = look_seconds
        self._unverified = unverified
        self._untold: dict[Key, _Untold] = {}
        self.queue: Queue[Key] = Queue("binding", self.run, workers=4)

    async def run(self, key: Key) -> None:
        """One pass."""
        binding = self._state.store.bindings.get(key)
        if binding is None or binding.deleting:
            self._untold.pop(key, None)
            self.queue.succeeded(key)
            return
        await attempt(self.queue, key, self._pass(binding))

    async def _pass(self, binding: ApiKeyBinding) -> bool:
        """Answers whether to look again soon, at what nobody tells of."""
        now = self._clock.now()
        spec = binding.spec
        over = spec.revoked or (spec.expires_at is not None and spec.expires_at <= now)
        if not over:
            self.queue.add(binding.key, self._look_again())
        if spec.secret_name is None or over:
            await self._report(binding, binding.status.keys if not over else (), now, conflict=False)
            return False
        secret = await self._cluster.key_secret(binding)
        if secret is not None and not secret.owned:
            await self._report(binding, (), now, conflict=True)
            return True
        held = secret.text if secret is not None else None
        untold = self._untold.pop(binding.key, None)
        if untold is not None and untold.instead_of == held and _newest(binding) == key_hash(untold.text):
            await self._write(binding, untold)
            return False
        keys = next_keys(binding, secret, now)
        if not keys.another:
            await self._report(binding, keys.kept, now, conflict=False)
            return False
        text = make_key(os.urandom(ENTROPY_BYTES))
        new = issued(text, key_id(text) or "", now)
        binding = await self._report(binding, (*keys.kept, new), now, conflict=False)
        await self._write(binding, _Untold(text, held))
        return False

    def _look_again(self) -> float:
        return next_look(len(self._state.store.bindings), self._look_seconds)

    async def _write(self, binding: ApiKeyBinding, untold: _Untold) -> None:
        """Hand the key out. Another one at each failure would change the status, which makes the next pass due."""
        self._untold[binding.key] = untold
        await self._cluster.write_key_secret(binding, untold.text)
        del self._untold[binding.key]
        self.queue.add(binding.key)  # which ends the key before
        told = f"key {key_id(untold.text)} is in Secret {binding.spec.secret_name}"
        self._cluster.announce(binding, "KeyIssued", told)

    async def _report(
        self, binding: ApiKeyBinding, keys: tuple[IssuedKey, ...], now: datetime, *, conflict: bool
    ) -> ApiKeyBinding:
        ahead = [moment for moment in moments(binding, keys) if moment > now]
        if ahead:
            self.queue.add(binding.key, (min(ahead) - now).total_seconds())
        vouched = None if self._unverified else await vouched_now(self._cluster, binding)
        trusted = self._unverified or vouched is not None
        kept = vouched or binding.status.vouched
        status = binding_status(binding, keys, kept, now, conflict=conflict, trusted=trusted)
        if status == binding.status:
            return binding
        updated = await self._cluster.write_binding_status(binding, status)
        self._state.store.put_binding(updated)
        self._journal.binding_seen(updated)
        if updated.metadata.generation != binding.metadata.generation:
            self.queue.add(binding.key)  # the event of this edit is no news any more
        before = {condition.type for condition in binding.status.conditions}
        for condition in status.conditions:
            if condition.type != "Ready" and condition.type not in before:
                self._cluster.announce(
                    binding, condition.type, condition.message, warning=condition.type != "RotationDue"
                )
        return updated


def _newest(binding: ApiKeyBinding) -> str | None:
    return binding.status.keys[-1].hash if binding.status.keys else None
