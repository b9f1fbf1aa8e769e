"""When a session ends, and the phase it is in."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from gatepass.core.types.session import AccessSession, EndedReason, Phase, ResourceState


@dataclass(frozen=True, slots=True)
class End:
    """The end of a session; `latched` once status says so, which makes it final."""

    at: datetime
    reason: EndedReason
    latched: bool


def deadline(session: AccessSession, longest: Iterable[timedelta] = ()) -> tuple[datetime, EndedReason]:
    """When time is up, recomputed on every pass: min(start + duration, notAfter).

    `longest` are the maxDurations of the session's resources: a lowered one moves the deadline, and the session goes
    on as long as one of them lets it. While a session waits to be claimed, its time is that of the claim.
    """
    if (claim_ends_at := session.claim_ends_at) is not None:
        not_after = session.spec.not_after
        if not_after is not None and not_after < claim_ends_at:
            return max(not_after, session.metadata.creation_timestamp), EndedReason.NOT_AFTER
        return claim_ends_at, EndedReason.UNCLAIMED
    duration = min([session.spec.duration, *([max(longest)] if (longest := tuple(longest)) else [])])
    by_duration = session.started_at + duration
    not_after = session.spec.not_after
    if not_after is not None and not_after < by_duration:
        return max(not_after, session.metadata.creation_timestamp), EndedReason.NOT_AFTER
    return by_duration, EndedReason.EXPIRED


def end(
    session: AccessSession,
    now: datetime,
    until: tuple[datetime, EndedReason],
    *,
    withdrawn: bool,
    key_revoked: bool = False,
    runner: EndedReason | None = None,
) -> End | None:
    """The end of the session if it has come, the latched one first; `until` is its deadline.

    `withdrawn` says that policy has taken back everything that the session was granted, `key_revoked` that the API key
    that started it is no more, `runner` in which way the runner has gone: what the session is bound to, or its heart.
    """
    status = session.status
    if status.ended_at is not None and status.ended_reason is not None:
        return End(status.ended_at, status.ended_reason, latched=True)
    at, reason = until
    if at <= now:
        return End(at, reason, latched=False)
    if session.deleting:
        return End(now, EndedReason.DELETED, latched=False)
    if session.spec.stop:
        return End(now, EndedReason.MANUAL, latched=False)
    if runner is not None:
        return End(now, runner, latched=False)
    if key_revoked:
        return End(now, EndedReason.KEY_REVOKED, latched=False)
    if withdrawn:
        return End(now, EndedReason.POLICY_WITHDRAWN, latched=False)
    return None


def closed(session: AccessSession, end: End | None) -> bool:
    """May its rules go? An end that is found again needs no record; any other is written down first.

    A deadline is, and so is the end of the object that is on record: it is over for good, or gone. Neither a stop nor a
    deletion can be taken back (ADR 025).
    """
    if end is None:
        return False
    gone = end.reason is EndedReason.OWNER_FINISHED and session.status.bound_to is not None
    return end.latched or gone or end.reason in FOR_GOOD


BY_DEADLINE = frozenset({EndedReason.EXPIRED, EndedReason.NOT_AFTER})
FOR_GOOD = BY_DEADLINE | {EndedReason.MANUAL, EndedReason.DELETED}
BY_TIME = BY_DEADLINE | {EndedReason.UNCLAIMED}
"""Nobody ended it. That nobody claimed it in time is written down all the same: a claim may be on its way."""


def phase(end: End | None, states: Collection[ResourceState], *, left: bool) -> tuple[Phase, bool]:
    """The phase and whether it is settled, by this table.

    `left`: a rule of ours may still be there, or a write of unknown outcome.

    | ended? | left | resources                              | phase     | settled |
    |--------|------|----------------------------------------|-----------|---------|
    | no     | any  | any Pending and none Applied           | Pending   | no      |
    | no     | any  | none Applied, some Waiting             | Pending   | no      |
    | no     | any  | all Applied                            | Active    | yes     |
    | no     | any  | some Applied, rest Failed              | Partial   | yes     |
    | no     | any  | some Applied, some Waiting or Pending  | Partial   | no      |
    | no     | any  | all Failed                             | Failed    | yes     |
    | yes    | yes  | any                                    | Expiring  | no      |
    | yes    | no   | ended by deadline, notAfter, unclaimed | Expired   | yes     |
    | yes    | no   | any other end                          | Cancelled | yes     |
    """
    if end is not None:
        if left:
            return Phase.EXPIRING, False
        return (Phase.EXPIRED if end.reason in BY_TIME else Phase.CANCELLED), True
    kinds = set(states)
    undecided = bool(kinds & {ResourceState.PENDING, ResourceState.WAITING})
    if ResourceState.APPLIED not in kinds:
        return (Phase.PENDING, False) if undecided else (Phase.FAILED, True)
    if undecided:
        return Phase.PARTIAL, False
    return (Phase.ACTIVE if kinds == {ResourceState.APPLIED} else Phase.PARTIAL), True
