"""What goes in and comes out, as the contract has it."""

import ipaddress
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from gatepass.core.policy import cidr_refusal
from gatepass.core.types.binding import Scope
from gatepass.core.types.common import Timestamp
from gatepass.core.types.resource import Protocol

T = TypeVar("T")


class Answer(BaseModel):
    """Something that is answered."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, serialize_by_alias=True, validate_by_name=True)


class Body(BaseModel):
    """Something that is asked for: exact types, and no field that nobody knows."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        extra="forbid",
        strict=True,
        validate_by_name=False,
        validate_by_alias=True,
    )


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must not contain control characters")
    return text


Line = Annotated[str, AfterValidator(_printable)]
# JSON has no UUIDs: exact types would refuse their text.
Id = Annotated[UUID, Field(strict=False)]


def _no_twins(ids: tuple[UUID, ...]) -> tuple[UUID, ...]:
    if len(set(ids)) != len(ids):
        raise ValueError("must not name a resource twice")
    return ids


Ids = Annotated[
    tuple[Id, ...],
    Field(strict=False, min_length=1, max_length=32, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_no_twins),
]


def _whole(value: object) -> object:
    """JSON has one kind of number: 2.0 is 2."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _address(text: str | None, version: Literal[4, 6]) -> str | None:
    if text is None:
        return None
    try:
        found = (ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address)(text)
    except ValueError:
        raise ValueError(f"must be an IPv{version} address") from None
    if "%" in text or cidr_refusal(f"{found}/{found.max_prefixlen}", "") is not None:
        raise ValueError(
            "must be no address of one machine or link, and none that is unspecified, multicast or reserved"
        )
    return str(found)


def _cidr(text: str) -> str:
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        found = None
    if found is None or "%" in text:
        raise ValueError("must be a range of addresses such as 203.0.113.0/24")
    return str(found)


def _text_of_a_time(text: object) -> object:
    """A time as text, which pydantic reads next: numbers, for it, are seconds since 1970."""
    if not isinstance(text, str) or not re.match(r"\d{4}-\d\d-\d\d[Tt ]", text):
        raise ValueError("must be a time such as 2026-11-22T18:00:00Z")
    return text


def _in_utc(at: datetime) -> datetime:
    """The first and the last day of the calendar have times elsewhere that are in no year of UTC."""
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a time between the years 1 and 9999 of UTC") from None


Moment = Annotated[AwareDatetime, BeforeValidator(_text_of_a_time), AfterValidator(_in_utc)]
"""A time with its offset, in UTC."""
Hours = Annotated[int, Field(ge=1, le=24), BeforeValidator(_whole)]


class StartSession(Body):
    """POST /sessions."""

    resource_ids: Annotated[Ids | None, Field(description="Absent: all that the caller may use.")] = None
    duration_hours: Hours = 1
    heartbeat_seconds: Annotated[
        int | None,
        Field(
            ge=5,
            le=3600,
            description="The session ends when the caller does not POST /sessions/{id}/heartbeat three times in a row, "
            "each of so many seconds. Absent: it need not.",
        ),
        BeforeValidator(_whole),
    ] = None
    ipv4_address: Annotated[
        str | None,
        AfterValidator(lambda text: _address(text, 4)),
        Field(description="Absent: the caller's.", json_schema_extra={"format": "ipv4"}),
    ] = None
    ipv6_address: Annotated[
        str | None,
        AfterValidator(lambda text: _address(text, 6)),
        Field(description="Absent: the caller's.", json_schema_extra={"format": "ipv6"}),
    ] = None
    reason: Annotated[Line | None, Field(max_length=256)] = None


class ExtendSession(Body):
    """POST /sessions/{id}/extend."""

    additional_hours: Hours


class ResourceIp(Answer):
    """One address at one resource of a session."""

    id: str
    resource_id: str | None
    resource_name: str
    ip_version: int
    ip_address: str
    status: Literal["PENDING", "APPLIED", "FAILED", "REMOVING", "REMOVED"]
    provider_rule_id: str | None = None
    applied_at: Timestamp | None = None
    removed_at: Timestamp | None = None
    error_message: str | None = None


class Session(Answer):
    """A session."""

    id: str
    user_id: str | None
    user_name: str
    user_email: str
    ipv4_address: str | None
    ipv6_address: str | None
    status: str
    started_at: Timestamp
    expires_at: Timestamp
    ended_at: Timestamp | None
    ended_reason: str | None
    created_at: Timestamp
    resource_ips: tuple[ResourceIp, ...]


class ResourceConfig(Body):
    """Where the door is, and which ports it has."""

    security_group_id: Line | None = None
    security_group_ids: Annotated[tuple[Line, ...] | None, Field(strict=False, min_length=1, max_length=16)] = None
    region: Line
    port: Annotated[int | None, Field(ge=1, le=65535)] = None
    ports: Annotated[tuple[int, ...] | None, Field(strict=False, min_length=1, max_length=16)] = None
    protocol: Annotated[Protocol, Field(strict=False)] = Protocol.TCP

    @model_validator(mode="after")
    def _one_of_each(self) -> "ResourceConfig":
        if (self.security_group_id is None) == (self.security_group_ids is None):
            raise ValueError("exactly one of securityGroupId and securityGroupIds is needed")
        if self.port is not None and self.ports is not None:
            raise ValueError("port and ports exclude each other")
        if self.protocol not in (Protocol.TCP, Protocol.UDP) and (self.port is not None or self.ports is not None):
            raise ValueError(f"{self.protocol.value} has no ports")
        return self


class CreateResource(Body):
    """POST /resources."""

    name: Annotated[Line, Field(min_length=1, max_length=63)]
    provider: Literal["AWS"]
    credential_id: Annotated[
        Line | None,
        Field(
            max_length=253,
            description="A Secret with the label gatepass.dev/credential, by name or uid; absent: Gatepass's identity.",
        ),
    ] = None
    config: ResourceConfig


class Resource(Answer):
    """A protected resource."""

    id: str
    name: str
    provider: Literal["AWS"]
    namespace: str
    ready: bool
    message: str | None
    config: dict[str, Any]
    active_sessions: int
    created_at: Timestamp


class CreateKey(Body):
    """POST /api-keys."""

    name: Annotated[Line, Field(min_length=1, max_length=63)]
    scopes: Annotated[
        tuple[Annotated[Scope, Field(strict=False)], ...], Field(strict=False, min_length=1, max_length=4)
    ]
    resource_ids: Ids | None = None
    allowed_cidrs: Annotated[
        tuple[Annotated[Line, AfterValidator(_cidr)], ...],
        AfterValidator(lambda cidrs: tuple(dict.fromkeys(cidrs))),
        Field(strict=False, max_length=64, alias="allowedCIDRs"),
    ] = ()
    max_duration_hours: Hours = 24
    expires_at: Annotated[Moment, Field(strict=False)] | None = None


class ApiKey(Answer):
    """An API key, without the key."""

    id: str
    name: str
    scopes: tuple[Scope, ...]
    resource_ids: tuple[str, ...] | None
    created_at: Timestamp
    expires_at: Timestamp | None
    last_used_at: Timestamp | None
    revoked: bool


class CreatedKey(ApiKey):
    """The only time that the key itself is shown."""

    key: str


class WhoAmI(Answer):
    """GET /auth/me."""

    id: str | None
    name: str
    email: str
    organization: str
    scopes: tuple[str, ...]


class DetectedIp(Answer):
    """GET /detect-ip."""

    ip: str
    version: Literal["IPv4", "IPv6"]


class Error(Answer):
    """Every error; `validationErrors` names the fields of the input that are wrong."""

    timestamp: Timestamp
    status: int
    error: str
    message: str
    path: str
    validation_errors: dict[str, str] | None = None


class AuditLog(Answer):
    """One decision or effect."""

    id: str
    event_type: str
    timestamp: str
    outcome: str
    actor_email: str | None
    credential: str | None
    ip_address: str | None
    request_id: str | None
    subject_kind: str | None
    subject_name: str | None
    subject_id: str | None
    details: dict[str, str]


class Health(Answer):
    """GET /health."""

    status: Literal["UP"] = "UP"


class Page(Answer, Generic[T]):
    """Spring's Page."""

    content: tuple[T, ...]
    total_elements: int
    total_pages: int
    number: int
    size: int
    first: bool
    last: bool
    number_of_elements: int
