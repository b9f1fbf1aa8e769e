"""The two ways in which a session ends with its runner: an object that it is bound to, and a heartbeat."""

from datetime import timedelta
from typing import Annotated, Final

from pydantic import Field

from gatepass.core.types.common import Model, Timestamp, cel, duration_schema, parsed_duration, told_by

_API_VERSION: Final = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?v[a-z0-9]+$"
_NAME: Final = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"


class BoundTo(Model):
    """An object in the session's own namespace; the session ends when it finishes or goes."""

    api_version: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            description="Its API version, such as v1, batch/v1 or tekton.dev/v1.",
            json_schema_extra=told_by(_API_VERSION, "an API version such as v1 or batch/v1"),
        ),
    ]
    kind: Annotated[
        str,
        Field(
            min_length=1,
            max_length=63,
            description="Its kind, such as Job.",
            json_schema_extra=told_by("^[A-Z][A-Za-z0-9]*$", "a kind such as Job, in the singular"),
        ),
    ]
    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            description="Its name.",
            json_schema_extra=told_by(_NAME, "the name of an object"),
        ),
    ]


BeatInterval = Annotated[timedelta, *parsed_duration(duration_schema("5s", "1h"))]


class Heartbeat(Model):
    """The runner renews a Lease; the session ends when it stops."""

    interval: Annotated[BeatInterval, Field(description="How often the runner renews the Lease, from 5s to 1h.")] = (
        timedelta(seconds=30)
    )
    missed: Annotated[
        int,
        Field(
            description="The session ends when so many renewals in a row have not come, from 2 to 100.",
            json_schema_extra={
                "x-kubernetes-validations": [
                    cel("self >= 2 && self <= 100", "'must be from 2 to 100, got %d'.format([self])")
                ]
            },
        ),
    ] = 3

    @property
    def window(self) -> float:
        """Seconds without a renewal after which the runner counts as gone."""
        return self.interval.total_seconds() * self.missed


def final(field: str, told: str) -> dict[str, object]:
    """A rule of the spec: an optional field that is neither set, nor changed, nor removed later; `told` is CEL."""
    return cel(
        f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        f"'spec.{field} is immutable: it was %s; create another AccessSession instead'.format("
        f"[has(oldSelf.{field}) ? {told} : 'absent'])",
    )


FINAL_FIELDS: Final = (
    final("boundTo", "'%s %s'.format([oldSelf.boundTo.kind, oldSelf.boundTo.name])"),
    final("heartbeat", "'%d times %s'.format([oldSelf.heartbeat.missed, oldSelf.heartbeat.interval])"),
)


SESSION_LABEL: Final = "gatepass.dev/session"
"""On the Lease of a heartbeat; what it says decides nothing, as anybody may put it on a Lease of his own."""
_LEASE: Final = "gatepass-"


def lease_name(uid: str) -> str:
    """By the session's uid, so that the Lease of an earlier session of the same name is another one."""
    return f"{_LEASE}{uid}"


def leased_by(name: str) -> str:
    """The uid of the session whose Lease would have this name."""
    return name.removeprefix(_LEASE)


class BoundToStatus(Model):
    """Which object the session is bound to."""

    uid: Annotated[
        str, Field(max_length=64, description="Its uid when it was first seen: another one of its name is not it.")
    ]


class HeartbeatStatus(Model):
    """Where the runner's beats go."""

    lease_name: Annotated[
        str,
        Field(max_length=253, description="The Lease in the session's namespace whose spec.renewTime is to be set."),
    ]
    last_seen_at: Annotated[
        Timestamp | None,
        Field(description="A beat that had come by then; written only along with other news, so mostly out of date."),
    ] = None
