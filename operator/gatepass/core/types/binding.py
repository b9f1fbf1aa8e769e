"""ApiKeyBinding: a key of the REST API, what it may open, and from where."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field

from gatepass.core.types.common import (
    Cidr,
    Conditions,
    Custom,
    Key,
    Model,
    Name,
    SessionDuration,
    Timestamp,
    cel,
    duration_schema,
    immutable,
    parsed_duration,
    rules,
)
from gatepass.core.types.session import ResourceReference


class Scope(StrEnum):
    """What a key may do; none includes another."""

    SESSIONS_READ = "sessions:read"
    SESSIONS_WRITE = "sessions:write"
    RESOURCES_READ = "resources:read"
    AUDIT_READ = "audit:read"


class Rotation(Model):
    """A new key at every interval; for the overlap the one before works too."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "duration(self.overlap) < duration(self.interval)",
                "'overlap must be shorter than interval: ' + self.overlap + ' is not shorter than ' + self.interval",
            )
        )
    )

    interval: Annotated[timedelta, *parsed_duration(duration_schema("1m", "8760h"))] = timedelta(days=90)
    overlap: Annotated[timedelta, *parsed_duration(duration_schema("10s", "720h"))] = timedelta(hours=24)


# Who owns what a token speaks of: names can be given up and taken by others, and these ids cannot.
OWNER_CLAIMS: Final[Mapping[str, str]] = {
    "https://token.actions.githubusercontent.com": "repository_owner_id",
    "https://gitlab.com": "namespace_id",
}


class Oidc(Model):
    """Tokens of a CI provider instead of a key; their audience is gatepass:<namespace>/<binding>."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            *(
                cel(
                    f"self.issuer != '{issuer}' || '{claim}' in self.claims",
                    f"'claims must have {claim}, as names can be taken over by others'",
                )
                for issuer, claim in OWNER_CLAIMS.items()
            )
        )
    )

    issuer: Annotated[
        str,
        Field(
            pattern=r"^https?://[^ ?#@]+[^ ?#@/]$",
            max_length=253,
            description="Its iss, such as https://token.actions.githubusercontent.com; the installation has a list.",
        ),
    ]
    claims: Annotated[
        Mapping[str, Annotated[str, Field(min_length=1, max_length=253)]],
        Field(
            min_length=1,
            max_length=16,
            description="Claims that a token must have, each with exactly this value; the owner's id among them.",
        ),
    ]


class ApiKeyBindingSpec(Model):
    """The key, and its bounds."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "(has(self.secretName) ? 1 : 0) + (has(self.keyHash) ? 1 : 0) + (has(self.oidc) ? 1 : 0) == 1",
                "must have exactly one of secretName, oidc and keyHash",
            ),
            cel(
                "!has(self.rotation) || (has(self.secretName) && !has(self.expiresAt))",
                "rotation goes with secretName, and not with expiresAt",
            ),
            cel(
                "has(self.secretName) == has(oldSelf.secretName) && has(self.keyHash) == has(oldSelf.keyHash) "
                "&& has(self.oidc) == has(oldSelf.oidc)",
                "secretName and keyHash are immutable, and oidc stays: create another ApiKeyBinding instead",
            ),
            cel(
                "!(has(oldSelf.revoked) && oldSelf.revoked) || (has(self.revoked) && self.revoked)",
                "revoked may not be set back from true: create another ApiKeyBinding instead",
            ),
        )
    )

    secret_name: Annotated[
        Name | None,
        Field(
            description="A Secret that Gatepass writes the key into, as api-key. Immutable.",
            json_schema_extra=rules(immutable("oldSelf", "ApiKeyBinding")),
        ),
    ] = None
    key_hash: Annotated[
        str | None,
        Field(
            pattern="^[0-9a-f]{64}$",
            description="SHA-256 of a key that POST /api-keys has made. Immutable.",
            json_schema_extra=rules(immutable("oldSelf", "ApiKeyBinding")),
        ),
    ] = None
    oidc: Annotated[Oidc | None, Field(description="Tokens of a CI provider instead of a key.")] = None
    scopes: Annotated[
        tuple[Scope, ...],
        Field(
            min_length=1,
            max_length=4,
            description="What the key may do; none includes another.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ]
    resources: Annotated[
        tuple[ResourceReference, ...] | None,
        Field(
            min_length=1,
            max_length=32,
            description="The ProtectedResources that it may open. Absent: all of the binding's namespace.",
            json_schema_extra={"x-kubernetes-list-type": "atomic"},
        ),
    ] = None
    max_duration: Annotated[SessionDuration, Field(description="The longest session that it may start.")] = timedelta(
        hours=24
    )
    allowed_cidrs: Annotated[
        tuple[Cidr, ...],
        Field(
            alias="allowedCIDRs",
            max_length=64,
            description="Where the key may be used from. Empty: anywhere.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ] = ()
    expires_at: Annotated[Timestamp | None, Field(description="From then on the key does not work.")] = None
    rotation: Annotated[Rotation | None, Field(description="Replace the key regularly.")] = None
    revoked: Annotated[
        bool, Field(description="True ends the key, and the live sessions that it started. It never comes back.")
    ] = False


class IssuedKey(Model):
    """A key that works, or worked; only its hash is kept."""

    id: Annotated[str, Field(max_length=16)]
    hash: Annotated[str, Field(max_length=64)]
    created_at: Timestamp
    expires_at: Timestamp | None = None


class Vouched(Model):
    """The admission policies vouched for who made and who changed the binding; kept for when they are made anew."""

    policies_since: Timestamp
    digest: Annotated[str, Field(max_length=64)]


class ApiKeyBindingStatus(Model):
    """Written by Gatepass only."""

    conditions: Conditions = ()
    vouched: Vouched | None = None
    keys: Annotated[tuple[IssuedKey, ...], Field(max_length=8)] = ()
    last_used_at: Timestamp | None = None
    last_used_ip: Annotated[str | None, Field(alias="lastUsedIP", max_length=43)] = None
    observed_generation: int | None = None


class ApiKeyBinding(Custom):
    """A key of the REST API: what it may do, open, for how long, and from where."""

    spec: ApiKeyBindingSpec
    status: ApiKeyBindingStatus = ApiKeyBindingStatus()

    def resource_keys(self) -> tuple[Key, ...] | None:
        """The ProtectedResources that it may open; None for all of its namespace."""
        if self.spec.resources is None:
            return None
        return tuple(Key(ref.namespace or self.metadata.namespace, ref.name) for ref in self.spec.resources)

    def opens(self, resource: Key) -> bool:
        """May sessions of the key name the resource?"""
        named = self.resource_keys()
        return resource.namespace == self.metadata.namespace if named is None else resource in named

    @property
    def hashes(self) -> tuple[str, ...]:
        """The hashes of its keys, also of those that work no more."""
        return (self.spec.key_hash,) if self.spec.key_hash is not None else tuple(key.hash for key in self.status.keys)

    def works(self, now: datetime) -> bool:
        """Has nobody ended it, and neither has time?"""
        expires_at = self.spec.expires_at
        return not (self.spec.revoked or self.deleting or (expires_at is not None and expires_at <= now))

    @property
    def audience(self) -> str:
        """Whom a token has to be made for."""
        return f"{AUDIENCE}{self.metadata.namespace}/{self.metadata.name}"

    def live_hashes(self, now: datetime) -> tuple[str, ...]:
        """The hashes of the keys that work now."""
        spec = self.spec
        if not self.works(now):
            return ()
        if spec.key_hash is not None:
            return (spec.key_hash,)
        return tuple(key.hash for key in self.status.keys if key.expires_at is None or key.expires_at > now)

    @property
    def requester(self) -> str:
        """The name under which sessions are started with the key."""
        return f"{KEY_USER}{self.metadata.namespace}/{self.metadata.name}"


KEY_USER = "gatepass:key:"
AUDIENCE = "gatepass:"
PLURAL = "apikeybindings"


def printer_columns() -> list[dict[str, Any]]:
    """The columns of `kubectl get`."""
    return [
        {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
        {"name": "Scopes", "type": "string", "jsonPath": ".spec.scopes"},
        {"name": "Secret", "type": "string", "jsonPath": ".spec.secretName"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        {"name": "Last used", "type": "date", "jsonPath": ".status.lastUsedAt", "priority": 1},
    ]
