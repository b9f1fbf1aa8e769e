"""A cloud from both sides: the provider's, and that of whoever else works in it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Protocol

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import Access, Credentials, Provider
from gatepass.core.rules import Rule, Stamp, Target, canonical_cidr
from gatepass.providers.aws_security_group import AwsSecurityGroups
from gatepass.providers.memory import MemoryFirewalls
from gatepass.sandbox.cloud import MISLEADING, Cloud
from tests.conftest import AwsAccount

OWNER = "7d1f/gatepass/gatepass"
STAMP = Stamp(OWNER, "gatepass-7c9d_ab12/2026-11-22T12:00:00Z")
EC2_NUMBERS = {"all": "-1"}


@dataclass(frozen=True)
class Held:
    """A rule as the cloud has it, whoever made it."""

    id: str
    rule: Rule
    description: str
    owner: str | None
    maker: str | None


class World(Protocol):
    """One account of a cloud."""

    access: Access

    @property
    def provider(self) -> Provider: ...

    def firewall(self, *, limit: int = 60) -> Target:
        """A new firewall object without rules."""
        ...

    def gone(self) -> Target:
        """A firewall object that is not there any more."""
        ...

    def put(self, target: Target, rule: Rule, description: str = "") -> str:
        """Somebody else puts a rule; answers its id."""
        ...

    def take(self, target: Target, id_: str) -> None:
        """Somebody else removes a rule."""
        ...

    def held(self, target: Target) -> dict[str, Held]:
        """The truth, by id."""
        ...


@dataclass
class Vault:
    """Secrets by namespace and name, as the API server would hand them out."""

    data: dict[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)

    async def read(self, namespace: str, name: str) -> Mapping[str, str]:
        try:
            return self.data[namespace, name]
        except KeyError:
            message = f"Secret {namespace}/{name} does not exist"
            raise ProviderError(Failure.FORBIDDEN, "SecretNotFound", message) from None


@dataclass
class MemoryWorld:
    """Firewalls in memory."""

    provider: MemoryFirewalls = field(default_factory=MemoryFirewalls)
    access: Access = field(default_factory=lambda: Access("aws", "eu-central-1", Credentials()))
    made: int = 0

    def firewall(self, *, limit: int = 60) -> Target:
        self.made += 1
        return self.provider.create(f"sg-{self.made:017x}", limit=limit)

    def gone(self) -> Target:
        target = self.firewall()
        self.provider.delete(target)
        return target

    def put(self, target: Target, rule: Rule, description: str = "") -> str:
        return self.provider.put(target, rule, description)

    def take(self, target: Target, id_: str) -> None:
        del self.provider.rules(target)[id_]

    def held(self, target: Target) -> dict[str, Held]:
        return {
            id_: Held(id_, seen.rule, seen.description, seen.owner, seen.maker)
            for id_, seen in self.provider.rules(target).items()
            if seen.rule is not None
        }


@dataclass
class AwsWorld:
    """Security groups of an AWS account, signed in to by a Secret."""

    aws: AwsAccount
    provider: AwsSecurityGroups
    access: Access
    ec2: Any = None

    def __post_init__(self) -> None:
        self.ec2 = self.aws.client("ec2")

    def firewall(self, *, limit: int = 60) -> Target:
        self.aws.control.set_quota(limit, account=self.aws.account)
        id_ = self.ec2.create_security_group(GroupName=f"g-{token_hex(8)}", Description="tests")["GroupId"]
        return Target("aws", self.aws.account, self.aws.region, id_)

    def gone(self) -> Target:
        target = self.firewall()
        self.ec2.delete_security_group(GroupId=target.id)
        return target

    def put(self, target: Target, rule: Rule, description: str = "") -> str:
        ranges: dict[str, Any] = (
            {"IpRanges": [{"CidrIp": rule.cidr, "Description": description}]}
            if rule.family == 4
            else {"Ipv6Ranges": [{"CidrIpv6": rule.cidr, "Description": description}]}
        )
        made = self.ec2.authorize_security_group_ingress(
            GroupId=target.id,
            IpPermissions=[
                {
                    "IpProtocol": EC2_NUMBERS.get(rule.protocol, rule.protocol),
                    "FromPort": -1 if rule.port is None else rule.port,
                    "ToPort": -1 if rule.end_port is None else rule.end_port,
                    **ranges,
                }
            ],
        )
        return str(made["SecurityGroupRules"][0]["SecurityGroupRuleId"])

    def take(self, target: Target, id_: str) -> None:
        self.ec2.revoke_security_group_ingress(GroupId=target.id, SecurityGroupRuleIds=[id_])

    def held(self, target: Target) -> dict[str, Held]:
        found = self.aws.control.rules(target.id, account=self.aws.account)[target.id]
        return {rule["securityGroupRuleId"]: _held(rule) for rule in found or ()}

    def calls(self, action: str = "") -> list[dict[str, Any]]:
        """What the emulator was asked in this account through the provider, of one action or of all."""
        return [
            entry
            for entry in self.aws.control.log()
            if entry.get("account") == self.aws.account and entry.get("action", "").startswith(action)
        ]


def _held(rule: Mapping[str, Any]) -> Held:
    protocol = {"-1": "all"}.get(rule["ipProtocol"], rule["ipProtocol"])
    ports = (int(rule["fromPort"]), int(rule["toPort"])) if protocol in ("tcp", "udp") else (None, None)
    cidr = canonical_cidr(rule.get("cidrIpv4") or rule["cidrIpv6"])
    tags = {tag["key"]: tag["value"] for tag in rule.get("tagSet", ())}
    return Held(
        rule["securityGroupRuleId"],
        Rule(cidr, protocol, *ports),
        rule.get("description") or "",
        tags.get("gatepass.dev/owner"),
        tags.get("gatepass.dev/made-by"),
    )


@contextmanager
def aws_provider(cloud: Cloud, vault: Vault, *, scheduler: bool = False) -> Iterator[AwsSecurityGroups]:
    """What calls the emulator, whatever the environment says of AWS."""
    with pytest.MonkeyPatch.context() as patch:
        for name in MISLEADING:
            patch.delenv(name, raising=False)
        for name, value in cloud.env.items():
            patch.setenv(name, value)
        made = AwsSecurityGroups(vault, scheduler=scheduler)
        yield made
        made.close()
