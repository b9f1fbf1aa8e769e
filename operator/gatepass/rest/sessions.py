"""/sessions: start, list, show, stop, extend, and beats of the heart."""

import asyncio
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Response

from gatepass.core.audit import EventType
from gatepass.core.gateway import RefusedError
from gatepass.core.policy import cidr_refusal
from gatepass.core.ports import ConflictError
from gatepass.core.stamps import requester_of
from gatepass.core.types.common import CHANGED_BY, FINALIZER, REQUESTED_BY, Key, format_duration
from gatepass.core.types.resource import PLURAL as RESOURCES
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import PLURAL as SESSIONS
from gatepass.core.types.session import AccessSession, Phase, SourceAddress
from gatepass.rest import views
from gatepass.rest.address import Address
from gatepass.rest.context import CallerAddress, Context, Here, Who
from gatepass.rest.errors import ApiError, invalid, not_found
from gatepass.rest.models import ExtendSession, Id, Page, Session, StartSession
from gatepass.rest.news import newer_than
from gatepass.rest.paging import WantedPart, part
from gatepass.rest.principal import KeyHolder, Person, Principal

router = APIRouter(prefix="/sessions", tags=["sessions"])

READ: Final = "sessions:read"
WRITE: Final = "sessions:write"
LONGEST: Final = timedelta(hours=24)
_NO_LEASE: Final = "the session's Lease is not there yet: try again"
_LONGEST_WAIT_SECONDS: Final = 60.0
_REPORTED_SECONDS: Final = 2.0
"""How long a longer time is waited for, until it is reported: before that, it is not told."""
_WAIT: Final = re.compile(r"""(?:^|[\s,;])wait\s*=\s*("?)(?P<seconds>[0-9]+)\1(?:$|[\s,;])""", re.IGNORECASE)
"""As RFC 7240 has it: a name in either case, a value that may be quoted."""
_AT_ONCE: Final = 50
_ATTEMPTS: Final = 30
"""More than there are hours to give; the status is written in between."""
_NEWS_SECONDS: Final = 0.5
"""How long what one replica has made may take to be known to another."""
Json = dict[str, Any]
Prefer = Annotated[str | None, Header(description="wait=30: answer when the session is settled, in 30 s at most.")]


@router.post("", response_model=Session)
async def start(asked: StartSession, here: Here, who: Who, seen_at: CallerAddress, prefer: Prefer = None) -> Json:
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
        **({"heartbeat": {"interval": f"{asked.heartbeat_seconds}s"}} if asked.heartbeat_seconds is not None else {}),
    }
    stamp = {REQUESTED_BY: who.requester.model_dump_json()}  # a person's is written anew, where a policy does
    metadata: dict[str, Any] = {
        "name": f"api-{secrets.token_hex(8)}",
        "namespace": who.namespace,
        "annotations": stamp,
    }
    token = None
    if isinstance(who, KeyHolder):
        metadata["finalizers"] = [FINALIZER]
    else:
        token = who.token
    made = await here.gateway.create(AccessSession, {"metadata": metadata, "spec": spec}, token)
    session = AccessSession.model_validate(made)
    here.told(EventType.SESSION_START_ASKED, who, session, seen_at)
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
    if not given:
        seen = _openable(seen_at)
        if isinstance(who, KeyHolder):
            return {"request": {"addresses": [seen]}}
        given = [seen]
    return {"cidrs": [f"{each}/{128 if ':' in each else 32}" for each in given]}


def _openable(seen_at: Address | None) -> str:
    """The caller's address, unless it is one that nobody has, as behind a proxy that is not configured."""
    if seen_at is None:
        raise invalid("ipv4Address", "the caller's address is not known: give one")
    if cidr_refusal(f"{seen_at}/{seen_at.max_prefixlen}", "") is not None:
        raise invalid(f"ipv{seen_at.version}Address", f"the caller is seen as {seen_at}, which is nobody's: give one")
    return str(seen_at)


def _longest(who: KeyHolder) -> str:
    return format_duration(who.binding.spec.max_duration)


@router.get("", response_model=Page[Session] | list[Session])
async def every(here: Here, who: Who, wanted: WantedPart) -> Response:
    """The sessions of the namespace, newest first."""
    await here.require(who, READ, "list", SESSIONS)
    found = [session for session in here.store.sessions.values() if _visible(who, session)]
    found.sort(key=lambda session: (session.metadata.creation_timestamp, session.uid), reverse=True)
    return part(found, lambda session: _written(here, session), wanted)


@router.get("/{session_id}", response_model=Session)
async def one(session_id: Id, here: Here, who: Who, prefer: Prefer = None) -> Json:
    """One session."""
    if isinstance(who, KeyHolder):
        who.require(READ)
    return await _answer(here, await _found(here, who, session_id, "get"), prefer)


@router.post("/{session_id}/stop", response_model=Session)
async def stop(session_id: Id, here: Here, who: Who, seen_at: CallerAddress, prefer: Prefer = None) -> Json:
    """End a session now; also one that is not open yet, so that it never opens."""
    if isinstance(who, KeyHolder):
        who.require(WRITE)
    session = await _found(here, who, session_id, "patch")
    if session.status.ended_at is not None or session.deleting:
        raise ApiError(HTTPStatus.CONFLICT, f"the session has ended already: it is {_phase(session)}")
    stopped = session if session.spec.stop else await _patch(here, who, session, {"stop": True})
    here.told(EventType.SESSION_STOP_ASKED, who, stopped, seen_at)
    return await _answer(here, stopped, prefer)


@router.post("/{session_id}/extend", response_model=Session)
async def extend(
    session_id: Id, asked: ExtendSession, here: Here, who: Who, seen_at: CallerAddress, prefer: Prefer = None
) -> Json:
    """Give a session more time, on top of what it has when that is written: of two at once, both count."""
    if isinstance(who, KeyHolder):
        who.require(WRITE)
    session = await _found(here, who, session_id, "patch")
    if isinstance(who, KeyHolder) and not await _may_open(here, who, session):
        told = "the key opens a resource of the session no more, or who bound it may not use that"
        raise ApiError(HTTPStatus.FORBIDDEN, told)
    with here.store.changes_of(session.uid) as changed:
        for _ in range(_ATTEMPTS):
            spec = {"duration": format_duration(_longer(here, who, session, asked.additional_hours))}
            changed.clear()
            try:
                extended = await _patch(here, who, session, spec, exactly=True)
                break
            except ConflictError:
                newer = await newer_than(session, here.store, changed)
            if newer is None:
                raise not_found("Session")
            session = newer
        else:
            raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "the session changes too often: try again")
    here.told(EventType.SESSION_EXTEND_ASKED, who, extended, seen_at, **spec)
    reported = await _until(here, extended, _REPORTED_SECONDS, _tells(extended.metadata.generation))
    return await _answer(here, extended.model_copy(update={"status": reported.status}), prefer)


def _longer(here: Context, who: Principal, session: AccessSession, hours: int) -> timedelta:
    """How long the session is to last; raises ApiError when it cannot."""
    if session.called_off or session.status.phase not in (Phase.ACTIVE, Phase.PARTIAL):
        raise ApiError(HTTPStatus.CONFLICT, f"only a session that is open can be extended: it is {_phase(session)}")
    duration = session.spec.duration + timedelta(hours=hours)
    resources = (here.store.resources.get(key) for key in session.resource_keys())
    bounds = [resource.spec.policy.max_duration for resource in resources if isinstance(resource, ProtectedResource)]
    if isinstance(who, KeyHolder):
        bounds.append(who.binding.spec.max_duration)
    longest = min([LONGEST, *bounds])
    if duration > longest:
        told = f"the session would last {format_duration(duration)}, and {format_duration(longest)} is the most"
        raise invalid("additionalHours", told)
    return duration


@router.post("/{session_id}/heartbeat", response_model=Session)
async def heartbeat(session_id: Id, here: Here, who: Who, seen_at: CallerAddress) -> Json:
    """Tell that the runner lives, by renewing the session's Lease as the runner would, and from where."""
    if isinstance(who, KeyHolder):
        who.require(WRITE)
    session = await _found(here, who, session_id, "patch")
    beating = session.status.heartbeat
    if session.spec.heartbeat is None:
        raise ApiError(HTTPStatus.CONFLICT, "the session has no heartbeat")
    if session.status.ended_at is not None or session.deleting:
        raise ApiError(HTTPStatus.CONFLICT, f"the session has ended already: it is {_phase(session)}")
    if beating is None:
        raise ApiError(HTTPStatus.CONFLICT, _NO_LEASE)
    token = None if isinstance(who, KeyHolder) else who.token
    try:
        await here.gateway.renew(Key(who.namespace, beating.lease_name), here.clock.now(), token)
    except RefusedError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            raise ApiError(HTTPStatus.CONFLICT, _NO_LEASE) from error
        raise
    await _note_where(here, who, session, seen_at)
    return _view(here, session)


async def _note_where(here: Context, who: Principal, session: AccessSession, seen_at: Address | None) -> None:
    """Record that the runner calls from another address than before: whichever replica leads reads it there.

    Of whoever could open the doors himself alone; a beat takes less than that.
    """
    source = session.status.source
    if source is None or seen_at is None or not session.spec.source.kind.seen_calling:
        return
    found = SourceAddress(
        ip=str(seen_at),
        version=seen_at.version,
        evidence="heartbeat to the REST API",
        observed_at=here.clock.now(),
    )
    seen = source.seen_from or ()
    known = {each.version: each.ip for each in (*source.addresses, *seen)}
    if not known or known.get(found.version) == found.ip or cidr_refusal(found.cidr, "") is not None:
        return
    if not await _may_open(here, who, session):
        return
    others = [each for each in seen if each.version != found.version]
    told = {"source": {"seenFrom": [each.to_json() for each in (*others, found)]}}
    try:
        here.seen(
            AccessSession.model_validate(await here.gateway.patch_status(AccessSession, session.key, told, session))
        )
    except RefusedError as error:
        if error.status not in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
            raise  # what has changed meanwhile is known by the next beat


async def _may_open(here: Context, who: Principal, session: AccessSession) -> bool:
    keys, answerable = session.resource_keys(), here.answerable(who)
    if answerable is None or (isinstance(who, KeyHolder) and not all(map(who.opens, keys))):
        return False
    asked = (here.gateway.may(answerable, "use", RESOURCES, key.namespace, key.name) for key in keys)
    return all(await asyncio.gather(*asked))


def _visible(who: Principal, session: AccessSession) -> bool:
    """A key sees its own sessions, and those that it might have started; a person the namespace, if RBAC says so."""
    if session.metadata.namespace != who.namespace:
        return False
    return isinstance(who, Person) or _started(who, session) or all(map(who.opens, session.resource_keys()))


def _started(who: KeyHolder, session: AccessSession) -> bool:
    requester = requester_of(session)
    return requester is not None and requester.uid == who.binding.uid


async def _found(here: Context, who: Principal, session_id: Id, verb: str) -> AccessSession:
    session = await _known(here, who, str(session_id))
    if session is None:
        raise not_found("Session")
    if not await here.may(who, verb, SESSIONS, who.namespace, session.metadata.name):
        raise not_found("Session")
    return session


async def _known(here: Context, who: Principal, uid: str) -> AccessSession | None:
    """The session, which another replica may have created a moment ago; what is another's is missed as long."""
    with here.store.changes_of(uid) as changed:
        try:
            async with asyncio.timeout(_NEWS_SECONDS):
                while (session := here.store.session(uid)) is None or not _visible(who, session):
                    changed.clear()
                    await changed.wait()
                return session
        except TimeoutError:
            return None


async def _patch(
    here: Context,
    who: Principal,
    session: AccessSession,
    spec: Mapping[str, Any],
    *,
    exactly: bool = False,
) -> AccessSession:
    """The uid makes sure that it is still the same session; `exactly` this version, or raises ConflictError."""
    token = None if isinstance(who, KeyHolder) else who.token
    metadata: dict[str, Any] = {"uid": session.uid}
    if exactly:
        metadata["resourceVersion"] = session.metadata.resource_version
    if isinstance(who, KeyHolder):
        metadata["annotations"] = {CHANGED_BY: who.requester.model_dump_json()}
    body = {"metadata": metadata, "spec": spec}
    try:
        changed = AccessSession.model_validate(await here.gateway.patch(AccessSession, session.key, body, token))
    except RefusedError as error:
        if exactly and error.status == HTTPStatus.CONFLICT:
            raise ConflictError(error.message) from error
        if error.status in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
            raise not_found("Session") from error
        raise
    here.seen(changed)
    return changed


async def _answer(here: Context, session: AccessSession, prefer: str | None) -> Json:
    """What it has become, after a wait if the caller prefers one."""
    wait = _WAIT.search(prefer or "")
    if wait is not None:
        seconds = min(float(wait["seconds"]), _LONGEST_WAIT_SECONDS)
        session = await _until(here, session, seconds, _is_settled)
    return _view(here, session)


async def _until(
    here: Context, session: AccessSession, seconds: float, seen: Callable[[AccessSession], bool]
) -> AccessSession:
    """What it has become when that is seen, or the time is up."""
    with here.store.changes_of(session.uid) as changed:
        try:
            async with asyncio.timeout(seconds):
                while (now := here.store.session(session.uid)) is not None and not seen(now):
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            pass
    return here.store.session(session.uid) or session


def _tells(generation: int) -> Callable[[AccessSession], bool]:
    """Does its status tell of that version of its spec?"""
    return lambda session: (session.status.observed_generation or 0) >= generation


def _is_settled(session: AccessSession) -> bool:
    """Told of the spec as it is now."""
    settled: Sequence[Any] = [c for c in session.status.conditions if c.type == "Settled"]
    return any(c.status == "True" and c.observed_generation >= session.metadata.generation for c in settled)


def _phase(session: AccessSession) -> str:
    return (session.status.phase or Phase.PENDING).upper()


async def write_ahead(here: Context) -> None:
    """Write all sessions before anybody lists them, a few at a time: the first list is no slower than the next."""
    for number, session in enumerate(list(here.store.sessions.values()), start=1):
        _written(here, session)
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)


def _written(here: Context, session: AccessSession) -> bytes:
    """What a list tells of a session."""

    def write() -> bytes:
        return json.dumps(_view(here, session), separators=(",", ":"), ensure_ascii=False).encode()

    return here.written(session, write)


def _view(here: Context, session: AccessSession) -> Json:
    return views.session(session, requester_of(session), here.store)
