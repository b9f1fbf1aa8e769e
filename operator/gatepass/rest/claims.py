"""POST /sessions/{id}/claim: whoever shows the session's token says by calling where the session comes from."""

import hmac
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, Request

from gatepass.core.audit import AuditEntry, EventType, Outcome, subject_of
from gatepass.core.gateway import RefusedError
from gatepass.core.keys import key_hash
from gatepass.core.policy import cidr_refusal
from gatepass.core.stamps import requester_of
from gatepass.core.types.common import format_time
from gatepass.core.types.session import AccessSession, SourceAddress
from gatepass.rest import views
from gatepass.rest.address import Address
from gatepass.rest.authentication import says_twice
from gatepass.rest.context import CallerAddress, Context, Here
from gatepass.rest.errors import ApiError
from gatepass.rest.models import Id, Session
from gatepass.rest.news import newer_than
from gatepass.rest.request_id import request_id

router = APIRouter(prefix="/sessions", tags=["sessions"])

_ATTEMPTS: Final = 5
_EVIDENCE: Final = "claimed by the REST API's caller"


@router.post("/{session_id}/claim", response_model=Session)
async def claim(session_id: Id, request: Request, here: Here, seen_at: CallerAddress) -> dict[str, Any]:
    """Claim a session with the token of its Secret: it opens to the caller, and its clock starts.

    Each IP family is claimed once; the same caller may ask again.
    """
    session = _shown(here, str(session_id), request, seen_at)
    address = _address(seen_at)
    for _ in range(_ATTEMPTS):
        if _claimed(here, session, address):
            break
        session = await _write(here, session, address)
    else:
        raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "the session changes too often: try again")
    return views.session(session, requester_of(session), here.store)


def _shown(here: Context, session_id: str, request: Request, seen_at: Address | None) -> AccessSession:
    """The session whose token was shown. Nobody learns from the answer which sessions there are."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    session = here.store.session(session_id)
    offer = session.status.claim if session is not None and session.spec.source.claim is not None else None
    shown = key_hash(token.strip())
    good = hmac.compare_digest(shown, offer.token_hash if offer is not None else key_hash(""))
    good = good and not says_twice(request)
    if session is None or offer is None or not good or scheme.lower() != "bearer" or not token.strip():
        if session is None:
            here.denied(request, seen_at)
        else:
            _refused(here, session, seen_at, "the token is not that of the session")
        raise ApiError(
            HTTPStatus.UNAUTHORIZED,
            "needs Authorization: Bearer with the token of the Secret that status.claim.secretName names",
            headers={"WWW-Authenticate": 'Bearer realm="gatepass"'},
        )
    return session


def _address(seen_at: Address | None) -> str:
    text = str(seen_at)
    if seen_at is None or cidr_refusal(f"{text}/{seen_at.max_prefixlen}", "") is not None:
        raise ApiError(HTTPStatus.BAD_REQUEST, f"nobody can be let in from {text}: is trustedProxies set?")
    return text


def _claimed(here: Context, session: AccessSession, address: str) -> bool:
    """Has the caller claimed it already? Raises ApiError when he cannot any more."""
    status = session.status
    if status.ended_at is not None or session.called_off:
        raise _too_late(here, session, address, "the session has ended")
    family = next((each.ip for each in _recorded(session) if (":" in each.ip) == (":" in address)), None)
    if family == address:
        return True
    if family is not None:
        raise _too_late(here, session, address, "the session was claimed from another address")
    if status.claim is None or here.clock.now() >= status.claim.expires_at:
        raise _too_late(here, session, address, "the time to claim the session is over")
    return False


async def _write(here: Context, session: AccessSession, address: str) -> AccessSession:
    """Record the claim, unless the session has changed in between; answers with the session as it is then."""
    now = here.clock.now()
    version = 6 if ":" in address else 4
    entry = SourceAddress(ip=address, version=version, evidence=_EVIDENCE, observed_at=now)
    told: dict[str, Any] = {"source": {"addresses": [each.to_json() for each in (*_recorded(session), entry)]}}
    if session.status.started_at is None:
        told |= {"startedAt": format_time(now), "expiresAt": None}  # that was the end of the time to claim
    with here.store.changes_of(session.uid) as changed:
        changed.clear()
        try:
            written = await here.gateway.patch_status(AccessSession, session.key, told, only=session)
        except RefusedError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            newer = await newer_than(session, here.store, changed)
            if newer is None:
                raise ApiError(HTTPStatus.CONFLICT, "the session has ended") from error
            return newer
    after = AccessSession.model_validate(written)
    here.seen(after)
    _tell(here, EventType.SESSION_CLAIMED, after, address, Outcome.SUCCESS)
    return after


def _recorded(session: AccessSession) -> tuple[SourceAddress, ...]:
    return session.status.source.addresses if session.status.source is not None else ()


def _too_late(here: Context, session: AccessSession, address: str, why: str) -> ApiError:
    """Tell the audit trail of somebody who cannot claim the session any more, and answer what he is told."""
    _refused(here, session, address, why)
    return ApiError(HTTPStatus.CONFLICT, why)


def _refused(here: Context, session: AccessSession, address: Address | str | None, why: str) -> None:
    _tell(here, EventType.SESSION_CLAIM_DENIED, session, address, Outcome.DENIED, why=why)


def _tell(
    here: Context,
    event: EventType,
    session: AccessSession,
    address: Address | str | None,
    outcome: Outcome,
    **details: str,
) -> None:
    if here.audit is not None:
        here.audit.record(
            AuditEntry(
                event=event,
                at=here.clock.now(),
                namespace=session.metadata.namespace,
                outcome=outcome,
                actor=None,
                credential="claim",
                address=str(address) if address is not None else None,
                request_id=request_id(),
                subject=subject_of(session),
                details=details,
            )
        )
