"""ProtectedResource: a door, who may go through it, and the firewalls it hangs in."""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field

from gatepass.core.types.common import (
    Cidr,
    Conditions,
    Custom,
    Model,
    SessionDuration,
    SourceKind,
    Timestamp,
    cel,
    rules,
    told_by,
)

_UNCHANGING = "has(self.{f}) == has(oldSelf.{f}) && (!has(self.{f}) || self.{f} == oldSelf.{f})"

REGION: Final = r"^[a-z]{2,4}(-[a-z]+)+-[0-9]+$"
_GROUP_ID: Final = "^sg-[0-9a-z]+$"
ROLE_ARN: Final = r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/.+$"


class SecretReference(Model):
    """A Secret of the same namespace."""

    # A name and nothing else: it becomes part of a URL path, where `..` would lead into another namespace.
    name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=253,
            pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        ),
    ]


class AwsCredentials(Model):
    """Exactly one way to sign in to AWS."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel("has(self.roleARN) != has(self.secretRef)", "exactly one of roleARN and secretRef must be set")
        )
    )

    role_arn: Annotated[
        Annotated[
            str,
            Field(
                max_length=2048,
                pattern=ROLE_ARN,
                json_schema_extra=told_by(ROLE_ARN, "the ARN of a role such as arn:aws:iam::123456789012:role/ci"),
            ),
        ]
        | None,
        Field(
            alias="roleARN",
            description="An IAM role to assume; its trust policy should ask for the external id that status shows.",
        ),
    ] = None
    secret_ref: Annotated[
        SecretReference | None,
        Field(description="A Secret with aws_access_key_id, aws_secret_access_key and maybe aws_session_token."),
    ] = None


class AwsFirewall(Model):
    """Security groups of one Region."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel("self.region == oldSelf.region", "'region is immutable: it was ' + oldSelf.region"),
            cel(_UNCHANGING.format(f="credentials"), "credentials are immutable: create another ProtectedResource"),
        )
    )

    region: Annotated[
        str,
        Field(
            max_length=32,
            pattern=REGION,
            description="Such as eu-central-1. Immutable.",
            json_schema_extra=told_by(REGION, "a Region such as eu-central-1"),
        ),
    ]
    security_groups: Annotated[
        tuple[
            Annotated[
                str,
                Field(
                    max_length=40,
                    pattern=_GROUP_ID,
                    json_schema_extra=told_by(_GROUP_ID, "the id of a security group such as sg-0a1b2c3d4e5f60718"),
                ),
            ],
            ...,
        ],
        Field(
            min_length=1,
            max_length=16,
            description="Rules go to the first group with room; a group that is taken off the list is drained first.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ]
    credentials: Annotated[
        AwsCredentials | None, Field(description="Absent: the operator's own identity. Immutable.")
    ] = None
    rules_per_security_group: Annotated[
        int | None,
        Field(
            ge=1, le=1000, description="Inbound rules a group takes per IP family. Absent: asked from Service Quotas."
        ),
    ] = None


class Protocol(StrEnum):
    """As in NetworkPolicy, and two more that firewalls know."""

    TCP = "TCP"
    UDP = "UDP"
    ICMP = "ICMP"
    ALL = "All"


class PortRange(Model):
    """One port or a range of ports, as in NetworkPolicy."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "self.protocol in ['TCP', 'UDP'] ? has(self.port) : !has(self.port) && !has(self.endPort)",
                "'port is required for TCP and UDP, and port and endPort must be absent for ICMP and All; "
                "protocol is ' + self.protocol",
            ),
            cel(
                "!has(self.endPort) || !has(self.port) || self.endPort >= self.port",
                "'endPort must not be below port: %d is below %d'.format([self.endPort, self.port])",
            ),
        )
    )

    protocol: Protocol = Protocol.TCP
    port: Annotated[int | None, Field(ge=1, le=65535)] = None
    end_port: Annotated[int | None, Field(ge=1, le=65535)] = None


class MinPrefixLength(Model):
    """The widest range that a session may ask for, per family."""

    ipv4: Annotated[int, Field(ge=8, le=32)] = 32
    ipv6: Annotated[int, Field(ge=32, le=128)] = 128


class Operator(StrEnum):
    """Operators of a label selector."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelRequirement(Model):
    """One requirement on a label."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "(self.operator in ['In', 'NotIn']) == (size(self.values) > 0)",
                "'values are required for In and NotIn, and must be absent for Exists and DoesNotExist; operator is '"
                " + self.operator",
            )
        )
    )

    key: Annotated[str, Field(max_length=317)]
    operator: Operator
    values: Annotated[tuple[Annotated[str, Field(max_length=63)], ...], Field(max_length=64)] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """As Kubernetes defines it."""
        value = labels.get(self.key)
        match self.operator:
            case Operator.IN:
                return value in self.values
            case Operator.NOT_IN:
                return value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.DOES_NOT_EXIST:
                return value is None


class LabelSelector(Model):
    """As in the Kubernetes API: all of it must match, and an empty one matches everything."""

    match_labels: Annotated[Mapping[str, str], Field(max_length=64)] = Field(default_factory=dict)
    match_expressions: Annotated[tuple[LabelRequirement, ...], Field(max_length=64)] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """True when `labels` satisfy every requirement."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            requirement.matches(labels) for requirement in self.match_expressions
        )


class From(StrEnum):
    """As in the Gateway API."""

    SAME = "Same"
    ALL = "All"
    SELECTOR = "Selector"


class AllowedNamespaces(Model):
    """Which namespaces may hold sessions for the resource."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "(self.from == 'Selector') == has(self.selector)",
                "'selector goes with from: Selector and with nothing else; from is ' + self.from",
            )
        )
    )

    from_: Annotated[From, Field(alias="from")] = From.SAME
    selector: LabelSelector | None = None


class Policy(Model):
    """Bounds on the sessions that use the resource."""

    max_duration: Annotated[SessionDuration, Field(description="The longest duration a session may ask for.")] = (
        timedelta(hours=24)
    )
    max_concurrent_sessions: Annotated[
        int | None, Field(ge=1, le=10000, description="More sessions than this wait for room. Absent: no limit.")
    ] = None
    min_prefix_length: Annotated[
        MinPrefixLength, Field(description="The widest range a session may ask for, per IP family.")
    ] = MinPrefixLength()
    require_reason: Annotated[bool, Field(description="Sessions must say what they are for.")] = False
    allow_private_addresses: Annotated[
        bool, Field(description="Accept RFC 1918, CGNAT and unique local addresses, for runners in a peered network.")
    ] = False
    sources: Annotated[
        tuple[SourceKind, ...],
        Field(
            min_length=1,
            max_length=5,
            description="The ways in which a session may say where it comes from: without cidrs, none declares itself. "
            "operator, which is whatever Gatepass itself is seen as, has to be listed.",
            json_schema_extra={"x-kubernetes-list-type": "set"},
        ),
    ] = (SourceKind.CIDRS, SourceKind.POD, SourceKind.CLAIM, SourceKind.REQUEST)
    follow_address_changes: Annotated[
        bool,
        Field(
            description="Move the rules of a session whose traffic leaves from another address than before: "
            "the new rule first, then the old one goes. Else the session keeps its address and says SourceChanged."
        ),
    ] = False
    allowed_namespaces: Annotated[
        AllowedNamespaces, Field(description="Where sessions may come from, as in the Gateway API.")
    ] = AllowedNamespaces()


class StaticCidr(Model):
    """An address range that is always let in."""

    cidr: Cidr
    description: Annotated[str, Field(max_length=64, description="Whose range it is.")] = ""


class ProtectedResourceSpec(Model):
    """The door and its rules."""

    aws: Annotated[AwsFirewall, Field(description="Security groups of AWS. Exactly one provider block must be set.")]
    ports: Annotated[
        tuple[PortRange, ...],
        Field(
            min_length=1,
            max_length=16,
            description="What is opened.",
            json_schema_extra={"x-kubernetes-list-type": "atomic"},
        ),
    ]
    policy: Annotated[Policy, Field(description="Bounds on the sessions that use it.")] = Policy()
    static_cidrs: Annotated[
        tuple[StaticCidr, ...],
        Field(
            alias="staticCIDRs",
            max_length=64,
            description="Ranges that are let in as long as the resource exists.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["cidr"]},
        ),
    ] = ()


class FamilyCapacity(Model):
    """Rules of one IP family over all groups of the resource."""

    used: int
    limit: int
    ours: int


class Capacity(Model):
    """Room in the groups."""

    ipv4: FamilyCapacity
    ipv6: FamilyCapacity


class TargetStatus(Model):
    """One firewall object of the resource."""

    id: Annotated[str, Field(max_length=64)]
    name: Annotated[str | None, Field(max_length=255)] = None
    vpc: Annotated[str | None, Field(max_length=64)] = None
    draining: Annotated[bool, Field(description="Off the list, and emptied of our rules.")] = False


class ProtectedResourceStatus(Model):
    """What Gatepass found; written by Gatepass only."""

    conditions: Conditions = ()
    account: Annotated[str | None, Field(max_length=64, description="The cloud account behind the credentials.")] = None
    external_id: Annotated[
        str | None, Field(alias="externalID", max_length=1024, description="What a role's trust policy should ask for.")
    ] = None
    capacity: Capacity | None = None
    active_sessions: int | None = None
    last_verified_at: Timestamp | None = None
    targets: Annotated[tuple[TargetStatus, ...], Field(max_length=64)] = ()
    observed_generation: int | None = None


class ProtectedResource(Custom):
    """A door that sessions may open: ports of one or more security groups, and a policy."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            cel(
                "size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
                "'metadata.name must be at most 63 lower-case letters, digits and hyphens, got ' + self.metadata.name",
            )
        )
    )

    spec: ProtectedResourceSpec
    status: ProtectedResourceStatus = ProtectedResourceStatus()


PLURAL = "protectedresources"


def printer_columns() -> list[dict[str, Any]]:
    """The columns of `kubectl get`."""
    ready = '.status.conditions[?(@.type=="Ready")]'
    return [
        {"name": "Ready", "type": "string", "jsonPath": f"{ready}.status"},
        {"name": "Sessions", "type": "integer", "jsonPath": ".status.activeSessions"},
        {"name": "Used", "type": "integer", "jsonPath": ".status.capacity.ipv4.used"},
        {"name": "Limit", "type": "integer", "jsonPath": ".status.capacity.ipv4.limit"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        {"name": "Region", "type": "string", "jsonPath": ".spec.aws.region", "priority": 1},
        {"name": "Reason", "type": "string", "jsonPath": f"{ready}.reason", "priority": 1},
    ]
