"""What statuses record of the rules in a target: the memory of the processes before this one."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from datetime import datetime

from gatepass.core.ports import Clock
from gatepass.core.rules import Mark, Target
from gatepass.core.types.common import Key
from gatepass.core.types.session import AccessSession, RuleStatus
from gatepass.engine.grants import Grants
from gatepass.engine.marks import put
from gatepass.engine.state import State
from gatepass.engine.targets import TargetState
from gatepass.engine.views import rule_of
from gatepass.engine.vouching import Vouching


class Records:
    """Believed where a read may lag behind an earlier process."""

    def __init__(self, state: State, grants: Grants, clock: Clock, vouching: Vouching) -> None:
        self._state = state
        self._grants = grants
        self._clock = clock
        self._vouching = vouching

    def ids(self, known: TargetState) -> set[str]:
        """What was made by us, as far as the rules that are there do not say otherwise."""
        recorded = {record.id for _, _, record in self._of(known.target)}
        held = (known.rules[id_] for id_ in recorded & known.rules.keys())
        return recorded - {rule.id for rule in held if not self._state.is_ours(rule, recorded)}

    def likely(self, known: TargetState, ids: Collection[str]) -> set[str]:
        """Those that are there, for all that is known: a read that lags may show what a predecessor has revoked."""
        if not ids or not self._state.may_lag(known):
            return set(ids)
        return set(ids) & {*known.put_by_us, *self.ids(known)}

    def alike(self, known: TargetState, ids: Collection[str], *, apart: bool) -> Iterator[tuple[bool, list[str]]]:
        """What to revoke in one call, as EC2 refuses all others with one that is gone; and whether it is doubtful.

        What no read shows goes apart, or with the rest.
        """
        likely, parts = self.likely(known, ids), defaultdict[tuple[bool, bool], list[str]](list)
        for id_ in ids:
            parts[id_ not in likely, apart and id_ in known.doubtful].append(id_)
        for doubtful, unseen in sorted(parts):
            yield doubtful, parts[doubtful, unseen]

    def holders(self, target: Target, ids: set[str]) -> set[str]:
        """Whose records name one of these rules."""
        return {session.uid for _, session, record in self._of(target) if record.id in ids} if ids else set()

    def users(self, target: Target, id_: str) -> set[tuple[str, str]]:
        """On whose record a rule is, with the resource that they use."""
        return {(session.uid, str(key)) for key, session, record in self._of(target) if record.id == id_}

    def correct(self, known: TargetState) -> None:
        """What is on record and not shown is there; what is shown, ours and on record for nobody has to be proven."""
        now, told, until = self._clock.now(), set[str](), dict[str, datetime]()
        records = list(self._of(known.target))
        for _, session, record in records:
            # As they were told: its label, and its dead man's switch, may not be for what is wanted by now.
            end = session.status.expires_at or self._grants.deadline(session)[0]
            until[record.id] = max(until.get(record.id, end), end)
        for key, session, record in records:
            if record.id not in known.rules:
                mark = Mark(str(key), until[record.id])
                known.suppose(put(rule_of(record), record.id, str(mark), self._state.owner))
            known.put_before(record.id, (now - record.applied_at).total_seconds())
            if not self._grants.closed(session, now):
                told.add(record.id)
        marked = (rule for rule in known.rules.values() if self._state.is_ours(rule))
        ours = (rule.id for rule in marked if not self._vouching.stranger(known.target, rule, now))
        known.question(id_ for id_ in ours if id_ not in told)

    def _of(self, target: Target) -> Iterator[tuple[Key, AccessSession, RuleStatus]]:
        """Also for who has not been verified yet."""
        for resource in self._state.naming(target):
            if resource.spec.aws.region == target.region:
                for session, record in self._state.store.records_of(resource.key, target.id):
                    yield resource.key, session, record
