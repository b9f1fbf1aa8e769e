"""What the custom resources share: the base model, metadata, durations, timestamps and CIDRs."""

import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Final, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic.alias_generators import to_camel

GROUP: Final = "gatepass.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
FINALIZER: Final = f"{GROUP}/revoke"
VERSION_COLUMN: Final = "Version"
"""Of `kubectl get -o wide`: by it a new leader sees at once whether anything has changed that it has not heard of."""
REQUESTED_BY: Final = f"{GROUP}/requested-by"
CHANGED_BY: Final = f"{GROUP}/changed-by"
ABANDON: Final = f"{GROUP}/abandon"

MAX_RULES_PER_SESSION: Final = 256


@lru_cache(maxsize=1024)
def _shared_fields(given: frozenset[str]) -> set[str]:
    return set(given)


@lru_cache(maxsize=8192)
def one(value: Any) -> Any:
    """The first of all equal values: thousands of sessions say the same of themselves, and keep it once."""
    return value


@lru_cache(maxsize=1024)
def _mapping(items: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    return dict(items)


class Model(BaseModel):
    """A frozen piece of a custom resource; unknown fields are dropped, as the API server drops them."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="ignore",
    )

    def model_post_init(self, _context: Any, /) -> None:
        """Share the set of the fields that were given, which takes more memory than the fields."""
        given = _shared_fields(frozenset(self.__pydantic_fields_set__))
        object.__setattr__(self, "__pydantic_fields_set__", given)

    def to_json(self) -> dict[str, Any]:
        """The object as the API server stores it, without absent fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def cel(rule: str, message: str, **more: Any) -> dict[str, Any]:
    """A CEL rule; `message` is an expression when it starts with a quote, so that it can name the value."""
    key = "messageExpression" if message.startswith("'") else "message"
    return {"rule": rule, key: message, **more}


def told_by(pattern: str, told: str) -> Callable[[dict[str, Any]], None]:
    """`json_schema_extra` that has the API server say what a text must be, where a pattern shows an expression."""
    rule = cel(f"self.matches('{pattern}')", f"'must be {told}, got ' + self")

    def instead(schema: dict[str, Any]) -> None:
        schema.pop("pattern", None)
        schema["x-kubernetes-validations"] = [rule]

    return instead


def rules(*validations: dict[str, Any], **more: Any) -> dict[str, Any]:
    """`json_schema_extra` that carries CEL rules."""
    return {"x-kubernetes-validations": list(validations), **more}


def immutable(before: str, kind: str) -> dict[str, Any]:
    """A rule that nothing changes; `before` is what it was, in CEL, for the message."""
    return cel("self == oldSelf", f"'is immutable: it was %s; create another {kind} instead'.format([{before}])")


_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,7})s)?")
_DURATION_CEL = "^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,7}s)?$"


def parse_duration(text: Any) -> timedelta:
    """Read `1h30m`, the hours, minutes and seconds of Go's notation; raises ValueError with the remedy."""
    if isinstance(text, timedelta):
        return text
    match = _DURATION.fullmatch(text) if isinstance(text, str) and text else None
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 90s, 30m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


def format_duration(value: timedelta) -> str:
    """Write a duration the way people do: `1h30m`, never `90m0s`."""
    total = int(value.total_seconds())
    parts = ((total // 3600, "h"), (total % 3600 // 60, "m"), (total % 60, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"


def duration_schema(low: str, high: str, *, never: bool = False) -> dict[str, Any]:
    """The OpenAPI schema of a duration from `low` to `high`, with a message that names the value and the bounds."""
    valid = (
        f"size(self) > 0 && self.matches('{_DURATION_CEL}') && "
        f"duration(self) >= duration('{low}') && duration(self) <= duration('{high}')"
    )
    return {
        "type": "string",
        "maxLength": 32,
        "x-kubernetes-validations": [
            cel(
                f"self == 'Never' || ({valid})" if never else valid,
                f"'must be a duration from {low} to {high} in hours, minutes and seconds, such as 1h30m"
                + (", or Never" if never else "")
                + ", got ' + self",
            )
        ],
    }


def parsed_duration(schema: dict[str, Any]) -> tuple[Any, ...]:
    """The annotations of a duration of such a schema."""
    return (
        BeforeValidator(parse_duration),
        PlainSerializer(format_duration, return_type=str),
        WithJsonSchema(schema),
    )


SessionDuration = Annotated[timedelta, *parsed_duration(duration_schema("1m", "24h"))]


NEVER: Final = timedelta.max


def parse_ttl(text: Any) -> timedelta:
    """Read a duration, or `Never`, which is NEVER; raises ValueError."""
    return NEVER if text == "Never" else parse_duration(text)


def _format_ttl(value: timedelta) -> str:
    return "Never" if value == NEVER else format_duration(value)


TimeToLive = Annotated[
    timedelta,
    BeforeValidator(parse_ttl),
    PlainSerializer(_format_ttl, return_type=str),
    WithJsonSchema(duration_schema("0s", "8760h", never=True)),
]


def counted(number: int, noun: str) -> str:
    """`1 session`, `2 sessions`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_time(value: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as Kubernetes writes its own timestamps."""
    return f"{value.astimezone(UTC).isoformat()[:19]}Z"  # strftime takes ten times as long


@lru_cache(maxsize=4096)
def parse_time(text: str) -> datetime:
    """Read it back; raises ValueError for anything else."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


# Narrower than RFC 3339: what Kubernetes, CEL and Python all read alike. Rules compute with it on every later
# update, so that one odd time would make an object that nobody can change any more.
_TIME: Final = (
    r"^(19|20|21)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)

Timestamp = Annotated[
    datetime,
    PlainSerializer(format_time, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time", "maxLength": 32, "pattern": _TIME}),
]

# Never a runner's address, in any policy: unspecified, loopback, link-local, multicast and reserved.
NEVER_ALLOWED: Final = (
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/3",
    "::/32",
    "fe80::/10",
    "ff00::/8",
)
PRIVATE: Final = ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
WIDEST_PREFIX: Final = {4: 8, 6: 32}


def overlaps_cel(ranges: tuple[str, ...], value: str = "self") -> str:
    """CEL: does the CIDR in `value` share an address with one of `ranges`?

    `containsCIDR` of another family is false, so the families need no case of their own.
    """
    tests = (f"cidr('{net}').containsCIDR({value}) || cidr({value}).containsCIDR('{net}')" for net in ranges)
    return "(" + " || ".join(tests) + ")"


_IS_CIDR = "isCIDR(self)"
CIDR_SCHEMA: Final[dict[str, Any]] = {
    "type": "string",
    "minLength": 1,
    "maxLength": 43,
    "x-kubernetes-validations": [
        cel(
            _IS_CIDR,
            "'must be an address with a prefix length, such as 203.0.113.7/32 or 2001:db8::7/128 "
            "(IPv4-mapped IPv6 is not accepted), got ' + self",
        ),
        cel(
            f"!{_IS_CIDR} || string(cidr(self).masked()) == self",
            # `format`, because CEL's cost estimate knows no bound for joining with the text of a CIDR.
            "'must be in canonical form %s, got %s'.format([string(cidr(self).masked()), self])",
        ),
        cel(
            f"!{_IS_CIDR} || cidr(self).prefixLength() >= (cidr(self).ip().family() == 4 ? 8 : 32)",
            "'must have a prefix length of at least 8 (IPv4) or 32 (IPv6), got ' + self",
        ),
        cel(
            f"!{_IS_CIDR} || !{overlaps_cel(NEVER_ALLOWED)}",
            "'must not touch unspecified, loopback, link-local, multicast or reserved addresses, got ' + self",
        ),
    ],
}
Cidr = Annotated[str, WithJsonSchema(CIDR_SCHEMA)]

_IS_IP = "isIP(self)"
IP_SCHEMA: Final[dict[str, Any]] = {
    "type": "string",
    "minLength": 1,
    "maxLength": 39,
    "x-kubernetes-validations": [
        cel(_IS_IP, "'must be an address, such as 203.0.113.7 or 2001:db8::7, got ' + self"),
        cel(f"!{_IS_IP} || ip.isCanonical(self)", "'must be in canonical form, got ' + self"),
    ],
}
Ip = Annotated[str, WithJsonSchema(IP_SCHEMA)]

Repeated = Annotated[str, AfterValidator(sys.intern)]

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]


Strings = Annotated[Mapping[str, str], AfterValidator(lambda given: _mapping(tuple(given.items())))]


class Metadata(Model):
    """The parts of ObjectMeta that decide anything."""

    name: str
    namespace: Repeated = ""
    uid: str
    resource_version: str = "0"
    generation: int = 1
    creation_timestamp: Timestamp
    deletion_timestamp: Timestamp | None = None
    finalizers: Annotated[tuple[str, ...], AfterValidator(one)] = ()
    annotations: Strings = Field(default_factory=dict)
    labels: Strings = Field(default_factory=dict)


class SourceKind(StrEnum):
    """The ways in which a session says where its traffic leaves from."""

    CIDRS = "cidrs"
    POD = "pod"
    CLAIM = "claim"
    REQUEST = "request"
    OPERATOR = "operator"

    @property
    def declared(self) -> bool:
        """Are the addresses in the spec, so that nobody has to find them?"""
        return self in (SourceKind.CIDRS, SourceKind.REQUEST)

    @property
    def seen_calling(self) -> bool:
        """Do the addresses come from a connection that the REST API has seen?"""
        return self in (SourceKind.CLAIM, SourceKind.REQUEST)


class Condition(Model):
    """A condition as the Kubernetes API conventions define it."""

    type: Annotated[str, Field(max_length=64)]
    status: Annotated[str, Field(pattern="^(True|False|Unknown)$")]
    reason: Annotated[str, Field(min_length=1, max_length=128)]
    message: Annotated[str, Field(max_length=2048)] = ""
    last_transition_time: Timestamp
    observed_generation: int = 0


Conditions = Annotated[
    tuple[Annotated[Condition, AfterValidator(one)], ...],
    Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


class Key(NamedTuple):
    """Namespace and name of an object of ours."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Custom(Model):
    """What every custom resource of ours has."""

    metadata: Metadata

    @property
    def key(self) -> Key:
        """Where the object lives."""
        return Key(self.metadata.namespace, self.metadata.name)

    @property
    def uid(self) -> str:
        """Which object it is: another one of the same name has another uid."""
        return self.metadata.uid

    @property
    def deleting(self) -> bool:
        """True from the moment somebody asked for its deletion."""
        return self.metadata.deletion_timestamp is not None

    @property
    def held(self) -> bool:
        """True while our finalizer keeps the object."""
        return FINALIZER in self.metadata.finalizers
