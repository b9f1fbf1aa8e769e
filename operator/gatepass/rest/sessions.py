"""/sessions: start, list, show, stop and extend."""

import asyncio
import re
import secrets
from collections.abc import Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Response

from gatepass.core.audit import EventType
from gatepass.core.gateway import RefusedError
from gatepass.core.types.common import FINALIZER, REQUESTED_BY, Key, format_duration
from gatepass.core.types.resource import PLURAL as RESOURCES
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import PLURAL as SESSIONS
from gatepass.core.types.session import AccessSession, Phase
from gatepass.engine.grants import requester_of
from gatepass.rest import views
from gatepass.rest.address import Address
from gatepass.rest.context import CallerAddress, Context, Here, Who
from gatepass.rest.errors import ApiError, invalid, not_found
from gatepass.rest.models import ExtendSession, Id, Page, Session, StartSession
from gatepass.rest.paging import WantedPart, json_of, part
from gatepass.rest.principal import KeyHolder, Person, Principal

router = APIRouter(prefix="/sessions", tags=["sessions"])

READ: Final = "sessions:read"
WRITE: Final = "sessions:write"
LONGEST: Final = timedelta(hours=24)
_LONGEST_WAIT_SECONDS: Final = 60.0
Prefer = Annotated[str | None, Header(description="wait=30: answer when the session is settled, in 30 s at most.")]


@router.post("", response_model=Session)
async def start(asked: StartSession, here: Here, who: Who, seen_at: CallerAddress, prefer: Prefer = None) -> Session:
    """Open the resources to the caller, or to the addresses given."""
    if isinstance(who, KeyHolder):
        who.require(WRITE)
    keys = await _resources(here, who, asked)
    duration = timedelta(hours=asked.duration_hours)
    if isinstance(who, KeyHolder) and duration > who.binding.spec.max_duration:
        raise invalid("durationHours", f"the key may start sessions of {_longest(who)} at most")
    spec = {
        "resources": [{"name": key.name, "namespace": key.namespace} for key in keys],
        "duration": format_duration(duration),
        "source": _source(who, asked, seen_at),
        **({"reason": asked.reason} if asked.reason else {}),
    }
    metadata: dict[str, Any] = {"name": f"api-{secrets.token_hex(8)}", "namespace": who.namespace}
    token = None
    if isinstance(who, KeyHolder):
        metadata |= {"finalizers": [FINALIZER], "annotations": {REQUESTED_BY: who.requester.model_dump_json()}}
    else:
        token = who.token
    made = await here.gateway.create(AccessSession, {"metadata": metadata, "spec": spec}, token)
    session = AccessSession.model_validate(made)
    here.seen(session)
    return await _answer(here, session, prefer)


async def _resources(here: Context, who: Principal, asked: StartSession) -> list[Key]:
    known = here.store.resources
    if asked.resource_ids is None:
        mine = sorted(key for key in known if _opens(who, key))
        if not isinstance(who, KeyHolder):
            mine = [key for key in mine if await here.may(who, "use", RESOURCES, key.namespace, key.name)]
        if not mine:
            raise invalid("resourceIds", "there is no resource that the caller may use")
        if len(mine) > 32:
            raise invalid("resourceIds", f"the caller may use {len(mine)} resources, and a session opens 32 at most")
        return mine
    by_uid = {resource.uid: key for key, resource in known.items()}
    found = []
    for wanted in asked.resource_ids:
        key = by_uid.get(str(wanted))
        if key is None or not _opens(who, key):
            raise not_found("Resource")
        found.append(key)
    return found


def _opens(who: Principal, key: Key) -> bool:
    """A key opens what its binding names; of a person the API server asks for `use` of what is in the namespace."""
    return who.opens(key) if isinstance(who, KeyHolder) else key.namespace == who.namespace


def _source(who: Principal, asked: StartSession, seen_at: Address | None) -> dict[str, Any]:
    given = [address for address in (asked.ipv4_address, asked.ipv6_address) if address is not None]
    if not given and seen_at is None:
        raise invalid("ipv4Address", "the caller's address is not known: give one")
    if not given and isinstance(who, KeyHolder):
        return {"request": {"addresses": [str(seen_at)]}}
    return {"cidrs": [f"{each}/{128 if ':' in each else 32}" for each in given or [str(seen_at)]]}


def _longest(who: KeyHolder) -> str:
    return format_duration(who.binding.spec.max_duration)


@router.get("", response_model=Page[Session] | list[Session])
async def every(here: Here, who: Who, wanted: WantedPart) -> Response:
    """The sessions of the namespace, newest first."""
    if isinstance(who, KeyHolder):
        who.require(READ)
    elif not await here.may(who, "list", SESSIONS, who.namespace):
        raise ApiError(HTTPStatus.FORBIDDEN, f'needs the verb "list" on {SESSIONS} of namespace {who.namespace}')
    found = [session for session in here.store.sessions.values() if _visible(who, session)]
    found.sort(key=lambda session: (session.metadata.creation_timestamp, session.uid), reverse=True)
    return part(found, lambda session: here.written(session, lambda: json_of(_view(here, session))), wanted)


@router.get("/{session_id}", response_model=Session)
async def one(session_id: Id, here: Here, who: Who, prefer: Prefer = None) -> Session:
    """One session."""
    if isinstance(who, KeyHolder):
        who.require(READ)
    return await _answer(here, await _found(here, who, session_id, "get"), prefer)


@router.post("/{session_id}/stop", response_model=Session)
async def stop(session_id: Id, here: Here, who: Who, seen_at: CallerAddress, prefer: Prefer = None) -> Session:
    """End a session now; also one that is not open yet, so that it never opens."""
    if isinstance(who, KeyHolder):
        who.require(WRITE)
    session = await _found(here, who, session_id, "patch")
    if session.status.ended_at is not None or session.deleting:
        raise ApiError(HTTPStatus.CONFLICT, f"the session has ended already: it is {_phase(session)}")
    stopped = await _patch(here, who, session, {"stop": True})
    here.told(EventType.SESSION_STOP_ASKED, who, stopped, seen_at)
    return await _answer(here, stopped, prefer)


@router.post("/{session_id}/extend", response_model=Session)
async def extend(
    session_id: Id, asked: ExtendSession, here: Here, who: Who, seen_at: CallerAddress, prefer: Prefer = None
) -> Session:
    """Give a session more time."""
    if isinstance(who, KeyHolder):
        who.require(WRITE)
    session = await _found(here, who, session_id, "patch")
    if session.status.phase not in (Phase.ACTIVE, Phase.PARTIAL) or session.spec.stop:
        raise ApiError(HTTPStatus.CONFLICT, f"only a session that is open can be extended: it is {_phase(session)}")
    if isinstance(who, KeyHolder) and not all(map(who.opens, session.resource_keys())):
        raise ApiError(HTTPStatus.FORBIDDEN, "the key opens a resource of the session no more")
    duration = session.spec.duration + timedelta(hours=asked.additional_hours)
    resources = (here.store.resources.get(key) for key in session.resource_keys())
    bounds = [resource.spec.policy.max_duration for resource in resources if isinstance(resource, ProtectedResource)]
    if isinstance(who, KeyHolder):
        bounds.append(who.binding.spec.max_duration)
    longest = min([LONGEST, *bounds])
    if duration > longest:
        told = f"the session would last {format_duration(duration)}, and {format_duration(longest)} is the most"
        raise invalid("additionalHours", told)
    extended = await _patch(here, who, session, {"duration": format_duration(duration)})
    here.told(EventType.SESSION_EXTEND_ASKED, who, extended, seen_at, duration=format_duration(duration))
    return await _answer(here, extended, prefer)


def _visible(who: Principal, session: AccessSession) -> bool:
    """A key sees its own sessions, and those that it might have started; a person the namespace, if RBAC says so."""
    if session.metadata.namespace != who.namespace:
        return False
    return isinstance(who, Person) or _started(who, session) or all(map(who.opens, session.resource_keys()))


def _started(who: KeyHolder, session: AccessSession) -> bool:
    requester = requester_of(session)
    return requester is not None and requester.uid == who.binding.uid


async def _found(here: Context, who: Principal, session_id: Id, verb: str) -> AccessSession:
    session = here.store.session(str(session_id))
    if session is None or not _visible(who, session):
        raise not_found("Session")
    if not await here.may(who, verb, SESSIONS, who.namespace, session.metadata.name):
        raise not_found("Session")
    return session


async def _patch(here: Context, who: Principal, session: AccessSession, spec: dict[str, Any]) -> AccessSession:
    """The uid makes sure that it is still the same session."""
    token = None if isinstance(who, KeyHolder) else who.token
    body = {"metadata": {"uid": session.uid}, "spec": spec}
    try:
        changed = AccessSession.model_validate(await here.gateway.patch(AccessSession, session.key, body, token))
    except RefusedError as error:
        if error.status in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            raise not_found("Session") from error
        raise
    here.seen(changed)
    return changed


async def _answer(here: Context, session: AccessSession, prefer: str | None) -> Session:
    """What it has become, after a wait if the caller prefers one."""
    wait = re.search(r"(?:^|[\s,;])wait=(\d{1,4})(?:$|[\s,;])", prefer or "")
    if wait is not None:
        session = await _settled(here, session, min(float(wait[1]), _LONGEST_WAIT_SECONDS))
    return _view(here, session)


async def _settled(here: Context, session: AccessSession, seconds: float) -> AccessSession:
    with here.store.changes_of(session.uid) as changed:
        try:
            async with asyncio.timeout(seconds):
                while (now := here.store.session(session.uid)) is not None and not _is_settled(now):
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            pass
    return here.store.session(session.uid) or session


def _is_settled(session: AccessSession) -> bool:
    """Told of the spec as it is now."""
    settled: Sequence[Any] = [c for c in session.status.conditions if c.type == "Settled"]
    return any(c.status == "True" and c.observed_generation >= session.metadata.generation for c in settled)


def _phase(session: AccessSession) -> str:
    return (session.status.phase or Phase.PENDING).upper()


def _view(here: Context, session: AccessSession) -> Session:
    return views.session(session, requester_of(session), here.store)
