"""/api-keys: create, list and revoke."""

import os
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Response

from gatepass.core.audit import EventType
from gatepass.core.keys import ENTROPY_BYTES, key_hash, make_key
from gatepass.core.types.binding import PLURAL as BINDINGS
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import REQUESTED_BY, format_time
from gatepass.rest import views
from gatepass.rest.context import APerson, CallerAddress, Context, Here
from gatepass.rest.errors import invalid, not_found
from gatepass.rest.models import ApiKey, CreatedKey, CreateKey, Id, Page
from gatepass.rest.paging import WantedPart, json_of, part
from gatepass.rest.principal import Person
from gatepass.rest.titles import slug, titled

router = APIRouter(prefix="/api-keys", tags=["api-keys"])


@router.post("", response_model=CreatedKey)
async def create(asked: CreateKey, here: Here, who: APerson, seen_at: CallerAddress) -> CreatedKey:
    """A key, shown this once; only its hash is kept, in an ApiKeyBinding that the caller's own rights create."""
    text = make_key(os.urandom(ENTROPY_BYTES))
    spec: dict[str, Any] = {
        "keyHash": key_hash(text),
        "scopes": [scope.value for scope in asked.scopes],
        "maxDuration": f"{asked.max_duration_hours}h",
        "allowedCIDRs": list(asked.allowed_cidrs),
    }
    if asked.resource_ids is not None:
        spec["resources"] = _named(here, who, asked.resource_ids)
    if asked.expires_at is not None:
        if asked.expires_at <= here.clock.now():
            raise invalid("expiresAt", "must be in the future")
        spec["expiresAt"] = format_time(asked.expires_at)
    metadata = titled(asked.name)
    metadata["annotations"][REQUESTED_BY] = who.requester.model_dump_json()  # where no policy writes it
    # Names of keys may be alike there, and names of objects may not.
    metadata |= {"name": f"{slug(asked.name)[:56]}-{os.urandom(3).hex()}".lstrip("-"), "namespace": who.namespace}
    body = {"metadata": metadata, "spec": spec}
    made = ApiKeyBinding.model_validate(await here.gateway.create(ApiKeyBinding, body, who.token))
    here.seen(made)
    here.told(EventType.API_KEY_CREATE_ASKED, who, made, seen_at, scopes=" ".join(spec["scopes"]))
    return CreatedKey(key=text, **dict(views.api_key(made, here.store)))


@router.get("", response_model=Page[ApiKey] | list[ApiKey])
async def every(here: Here, who: APerson, wanted: WantedPart) -> Response:
    """The keys of the namespace, newest first."""
    await here.require_verb(who, "list", BINDINGS)
    found = [each for each in here.store.bindings.values() if each.metadata.namespace == who.namespace]
    found.sort(key=lambda each: (each.metadata.creation_timestamp, each.uid), reverse=True)
    return part(found, lambda each: json_of(views.api_key(each, here.store)), wanted)


@router.delete("/{key_id}", status_code=HTTPStatus.NO_CONTENT)
async def revoke(key_id: Id, here: Here, who: APerson, seen_at: CallerAddress) -> Response:
    """The key works no more, and the sessions that it started end; the record stays."""
    found = next((each for each in here.store.bindings.values() if each.uid == str(key_id)), None)
    if found is None or found.metadata.namespace != who.namespace:
        raise not_found("API key")
    if not await here.may(who, "patch", BINDINGS, who.namespace, found.metadata.name):
        raise not_found("API key")
    body = {"metadata": {"uid": found.uid}, "spec": {"revoked": True}}
    here.seen(ApiKeyBinding.model_validate(await here.gateway.patch(ApiKeyBinding, found.key, body, who.token)))
    here.told(EventType.API_KEY_REVOKE_ASKED, who, found, seen_at)
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _named(here: Context, who: Person, wanted: tuple[Id, ...]) -> list[dict[str, str]]:
    by_uid = {each.uid: each.key for each in here.store.resources.values() if each.metadata.namespace == who.namespace}
    keys = [by_uid.get(str(each)) for each in wanted]
    if None in keys:
        raise not_found("Resource")
    return [{"name": key.name, "namespace": key.namespace} for key in keys if key is not None]
