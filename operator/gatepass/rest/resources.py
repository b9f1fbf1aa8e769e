"""/resources: list, show, create and delete."""

from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, Response

from gatepass.core.audit import EventType
from gatepass.core.types.resource import PLURAL as RESOURCES
from gatepass.core.types.resource import ProtectedResource, Protocol
from gatepass.rest import views
from gatepass.rest.context import CallerAddress, Context, Here, Who
from gatepass.rest.errors import invalid, not_found
from gatepass.rest.models import CreateResource, Id, Page, Resource, ResourceConfig
from gatepass.rest.paging import WantedPart, json_of, part
from gatepass.rest.principal import KeyHolder, Person, Principal
from gatepass.rest.titles import slug, titled

router = APIRouter(prefix="/resources", tags=["resources"])

READ: Final = "resources:read"
WRITE: Final = "resources:write"


@router.get("", response_model=Page[Resource] | list[Resource])
async def every(here: Here, who: Who, wanted: WantedPart) -> Response:
    """The resources of the namespace, newest first; for a key those that it may open."""
    await here.require(who, READ, "list", RESOURCES)
    found = [each for each in here.store.resources.values() if _visible(who, each)]
    found.sort(key=lambda each: (each.metadata.creation_timestamp, each.uid), reverse=True)
    return part(found, lambda each: json_of(views.resource(each)), wanted)


@router.get("/{resource_id}", response_model=Resource)
async def one(resource_id: Id, here: Here, who: Who) -> Resource:
    """One resource."""
    if isinstance(who, KeyHolder):
        who.require(READ)
    return views.resource(await _found(here, who, resource_id, "get"))


@router.post("", response_model=Resource)
async def create(asked: CreateResource, here: Here, who: Who, seen_at: CallerAddress) -> Resource:
    """A ProtectedResource, by the caller's own rights."""
    person = _person(who)
    credential = None
    if asked.credential_id is not None:
        credential = await here.gateway.credential(person.namespace, asked.credential_id, person.token)
        if credential is None:
            raise invalid("credentialId", "there is no such Secret with the label gatepass.dev/credential")
    name = slug(asked.name)
    if not name:
        raise invalid("name", "must have a letter or a digit of ASCII")
    metadata = {**titled(asked.name), "name": name, "namespace": person.namespace}
    body = {"metadata": metadata, "spec": _spec(asked, credential)}
    made = ProtectedResource.model_validate(await here.gateway.create(ProtectedResource, body, person.token))
    here.seen(made)
    here.told(EventType.RESOURCE_CREATE_ASKED, who, made, seen_at)
    return views.resource(made)


@router.delete("/{resource_id}", status_code=HTTPStatus.NO_CONTENT)
async def delete(resource_id: Id, here: Here, who: Who, seen_at: CallerAddress) -> Response:
    """It goes when the sessions that use it have ended."""
    person = _person(who)
    found = await _found(here, who, resource_id, "delete")
    await here.gateway.delete(ProtectedResource, found.key, found.uid, person.token)
    here.told(EventType.RESOURCE_DELETE_ASKED, who, found, seen_at)
    return Response(status_code=HTTPStatus.NO_CONTENT)


def _person(who: Principal) -> Person:
    if isinstance(who, KeyHolder):
        raise who.lacks(WRITE)  # as every key does
    return who


def _visible(who: Principal, resource: ProtectedResource) -> bool:
    return who.opens(resource.key) if isinstance(who, KeyHolder) else resource.metadata.namespace == who.namespace


async def _found(here: Context, who: Principal, resource_id: Id, verb: str) -> ProtectedResource:
    wanted = str(resource_id)
    found = next((each for each in here.store.resources.values() if each.uid == wanted), None)
    if found is None or not _visible(who, found):
        raise not_found("Resource")
    if not await here.may(who, verb, RESOURCES, found.metadata.namespace, found.metadata.name):
        raise not_found("Resource")
    return found


def _spec(asked: CreateResource, credential: str | None) -> dict[str, Any]:
    config = asked.config
    groups = config.security_group_ids or (config.security_group_id,)
    credentials = {"credentials": {"secretRef": {"name": credential}}} if credential is not None else {}
    return {
        "aws": {"region": config.region, "securityGroups": list(groups), **credentials},
        "ports": _ports(config),
    }


def _ports(config: ResourceConfig) -> list[dict[str, Any]]:
    if config.protocol not in (Protocol.TCP, Protocol.UDP):
        return [{"protocol": config.protocol.value}]
    ports = config.ports or ((config.port,) if config.port is not None else None)
    if ports is None:  # the contract's own example names no port: the whole group is the door
        return [{"protocol": config.protocol.value, "port": 1, "endPort": 65535}]
    return [{"protocol": config.protocol.value, "port": port} for port in ports]
