"""The ways in which an AccessSession says where its traffic leaves from."""

from datetime import timedelta
from typing import Annotated, Final

from pydantic import ConfigDict, Field

from gatepass.core.types.common import (
    Cidr,
    Ip,
    Model,
    SourceKind,
    cel,
    duration_schema,
    immutable,
    parsed_duration,
    rules,
)

ClaimDuration = Annotated[timedelta, *parsed_duration(duration_schema("10s", "1h"))]


class RequestSource(Model):
    """The caller of the REST API, as Gatepass saw it."""

    addresses: Annotated[
        tuple[Ip, ...],
        Field(
            min_length=1,
            max_length=2,
            description="One address of each IP family at most.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ]


class PodSource(Model):
    """A pod of the session's namespace."""

    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
            description="Name of the pod, in the session's namespace.",
        ),
    ]


class ClaimSource(Model):
    """Whoever calls first and shows the token."""

    within: Annotated[
        ClaimDuration,
        Field(description="How long the claim is open, from 10s to 1h; a session that nobody claims ends then."),
    ] = timedelta(minutes=5)


class OperatorSource(Model):
    """Whatever Gatepass itself is seen as; there is nothing to say about it."""


_KINDS: Final = tuple(SourceKind)
_BEFORE: Final = (
    "has(oldSelf.cidrs) ? oldSelf.cidrs : has(oldSelf.request) ? oldSelf.request.addresses : "
    "has(oldSelf.pod) ? ['pod ' + oldSelf.pod.name] : "
    "has(oldSelf.claim) ? ['claim within ' + oldSelf.claim.within] : ['operator']"
)


class Source(Model):
    """Where the job's traffic leaves from: exactly one of these."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                f"[{', '.join(f'has(self.{each})' for each in _KINDS)}].filter(given, given).size() == 1",
                "must have exactly one of cidrs, pod, claim, request and operator",
            ),
            immutable(_BEFORE, "AccessSession"),
        )
    )

    cidrs: Annotated[
        tuple[Cidr, ...] | None,
        Field(
            min_length=1,
            max_length=16,
            description="Addresses in canonical CIDR form, such as 203.0.113.7/32 or 2001:db8::7/128.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ] = None
    request: Annotated[
        RequestSource | None, Field(description="Set by Gatepass's REST API only: the caller that it saw.")
    ] = None
    pod: Annotated[
        PodSource | None, Field(description="The addresses that the traffic of this pod leaves from, found for you.")
    ] = None
    claim: Annotated[
        ClaimSource | None,
        Field(
            description="The first caller of status.claim.url who shows the token in Secret status.claim.secretName."
        ),
    ] = None
    operator: Annotated[
        OperatorSource | None, Field(description="The addresses that Gatepass itself is seen as from outside.")
    ] = None

    @property
    def kind(self) -> SourceKind:
        """Which of them it is."""
        return next(kind for kind in _KINDS if getattr(self, kind) is not None)

    @property
    def ranges(self) -> tuple[str, ...]:
        """What to let in, in canonical CIDR form, as far as it is declared."""
        if self.request is not None:
            return tuple(f"{address}/{128 if ':' in address else 32}" for address in self.request.addresses)
        return self.cidrs or ()
