"""AWS security groups: one Authorize and one Revoke per pass, whatever the number of rules."""

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from botocore.exceptions import ClientError

from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError
from gatepass.core.ports import (
    Access,
    Duplicate,
    Full,
    Granted,
    GrantOutcome,
    NewRule,
    Revoked,
    RevokeOutcome,
    Secrets,
    TargetFacts,
    Unknown,
)
from gatepass.core.rules import ObservedRule, Rule, Target, canonical_cidr
from gatepass.providers.aws_clients import ClientPool
from gatepass.providers.aws_errors import THROTTLED, code_of
from gatepass.providers.aws_pacing import Pacing

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_ec2.type_defs import IpPermissionTypeDef, SecurityGroupRuleTypeDef

T = TypeVar("T")

OWNER_TAG: Final = "gatepass.dev/owner"
_QUOTA: Final = ("vpc", "L-0EA8095F")
"""Inbound or outbound rules per security group; 60 unless raised (Service Quotas, Amazon VPC)."""
_DEFAULT_LIMIT: Final = 60
_PER_CALL: Final = 1000
_PER_PAGE: Final = 1000
_PROTOCOLS: Final = {"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6", "-1": "all"}
_AWS_PROTOCOLS: Final = {"all": "-1"}
_RULE_ID: Final = re.compile(r"sgr-[0-9a-f]+")
_NAMED_DUPLICATE: Final = re.compile(
    r"peer: (?P<cidr>[^,\s]+), (?P<protocol>[A-Za-z0-9]+), from port: (?P<port>-?\d+), to port: (?P<end>-?\d+)"
)
_THREADS: Final = 32


class AwsSecurityGroups:
    """The `Provider` of security groups; every Region and account, every way to sign in."""

    def __init__(self, secrets: Secrets, threads: int = _THREADS) -> None:
        self._pool = ClientPool(secrets, threads)
        self._pacing: defaultdict[tuple[str, str], Pacing] = defaultdict(Pacing)
        self._accounts: dict[Access, str] = {}
        self._limits: dict[Access, int] = {}

    def close(self) -> None:
        """End the threads."""
        self._pool.close()

    # reading

    async def identify(self, access: Access) -> str:
        """The account that the credentials belong to (sts:GetCallerIdentity), with a Secret read anew."""
        clients = await self._pool.clients(access, renew=True)
        answer = await self._pool.run("sts:GetCallerIdentity", clients.sts.get_caller_identity)
        self._accounts[access] = answer["Account"]
        self._limits.pop(access, None)
        return answer["Account"]

    async def inspect(self, access: Access, ids: Sequence[str]) -> Mapping[str, TargetFacts | ProviderError]:
        """Names, VPCs and limits. A filter is used and not GroupIds, where one missing group fails the whole call."""
        ec2 = (await self._pool.clients(access)).ec2
        answer = await self._read(
            access,
            "DescribeSecurityGroups",
            lambda: ec2.describe_security_groups(
                Filters=[{"Name": "group-id", "Values": list(ids)}], MaxResults=_PER_PAGE
            ),
        )
        limit = await self._limit(access)
        found = {
            group["GroupId"]: TargetFacts(group.get("GroupName", ""), group.get("VpcId"), limit)
            for group in answer["SecurityGroups"]
        }
        return {id_: found.get(id_) or self._missing(access, id_) for id_ in ids}

    def _missing(self, access: Access, id_: str) -> ProviderError:
        return ProviderError(
            Failure.NOT_FOUND,
            "TargetNotFound",
            f"security group {id_} does not exist in {access.region} of account {self._accounts.get(access, '?')}",
        )

    async def _limit(self, access: Access) -> int:
        if access not in self._limits:
            quotas = (await self._pool.clients(access)).quotas
            service, code = _QUOTA
            try:
                answer = await self._pool.run(
                    "servicequotas:GetServiceQuota",
                    lambda: quotas.get_service_quota(ServiceCode=service, QuotaCode=code),
                )
                self._limits[access] = int(answer["Quota"]["Value"])
            except (ProviderError, UnknownOutcomeError):
                # Without the permission to ask, the default is right for most; EC2's own answer wins anyway.
                self._limits[access] = _DEFAULT_LIMIT
        return self._limits[access]

    async def observe(self, access: Access, target: Target) -> Sequence[ObservedRule]:
        """Every inbound rule. A prefix list weighs its most entries; when those may not be asked, one."""
        ec2 = (await self._pool.clients(access)).ec2
        found: list[SecurityGroupRuleTypeDef] = []
        token: dict[str, str] = {}
        while True:
            page = await self._read(
                access,
                "DescribeSecurityGroupRules",
                lambda token=token: ec2.describe_security_group_rules(  # type: ignore[misc]
                    Filters=[{"Name": "group-id", "Values": [target.id]}], MaxResults=_PER_PAGE, **token
                ),
            )
            found += [rule for rule in page["SecurityGroupRules"] if not rule.get("IsEgress")]
            if not page.get("NextToken"):
                break
            token = {"NextToken": page["NextToken"]}
        entries = await self._entries(access, ec2, {rule["PrefixListId"] for rule in found if rule.get("PrefixListId")})
        return [_observed(rule, entries) for rule in found]

    async def _entries(self, access: Access, ec2: "EC2Client", lists: set[str]) -> dict[str, int]:
        if not lists:
            return {}
        try:
            answer = await self._read(
                access,
                "DescribeManagedPrefixLists",
                lambda: ec2.describe_managed_prefix_lists(PrefixListIds=sorted(lists)),
            )
        except ProviderError:
            return {}
        return {entry["PrefixListId"]: entry.get("MaxEntries", 1) for entry in answer["PrefixLists"]}

    # writing

    async def grant(
        self, access: Access, target: Target, rules: Sequence[NewRule], owner: str
    ) -> Mapping[Rule, GrantOutcome]:
        """Put the rules in one call; a call that fails is made again without the member that is wrong."""
        ec2 = (await self._pool.clients(access)).ec2
        outcomes: dict[Rule, GrantOutcome] = {}
        batches = [list(rules[start : start + _PER_CALL]) for start in range(0, len(rules), _PER_CALL)]
        while batches:
            batch = batches.pop(0)
            try:
                outcomes |= await self._authorize(ec2, target, batch, owner)
            except ClientError as error:
                wrong, rest = _blamed(error, batch)
                outcomes |= wrong
                batches[:0] = rest
            except UnknownOutcomeError:
                outcomes |= {new.rule: Unknown() for new in batch}
            except ProviderError as error:
                outcomes |= {new.rule: error for batch in (batch, *batches) for new in batch}
                break
        return outcomes

    async def _authorize(
        self, ec2: "EC2Client", target: Target, batch: Sequence[NewRule], owner: str
    ) -> dict[Rule, GrantOutcome]:
        answer = await self._write(
            target,
            "AuthorizeSecurityGroupIngress",
            lambda: ec2.authorize_security_group_ingress(
                GroupId=target.id,
                IpPermissions=_permissions(batch),
                TagSpecifications=[
                    {"ResourceType": "security-group-rule", "Tags": [{"Key": OWNER_TAG, "Value": owner}]}
                ],
            ),
            also=_BATCH_ERRORS,
        )
        ids = {_identity(made): made["SecurityGroupRuleId"] for made in answer["SecurityGroupRules"]}
        return {new.rule: Granted(ids[new.rule]) if new.rule in ids else Unknown() for new in batch}

    async def revoke(self, access: Access, target: Target, ids: Sequence[str]) -> Mapping[str, RevokeOutcome]:
        """Remove the rules by id in one call; an id that is gone is dropped, and the rest is removed at once."""
        ec2 = (await self._pool.clients(access)).ec2
        outcomes: dict[str, RevokeOutcome] = {}
        batches = [list(ids[start : start + _PER_CALL]) for start in range(0, len(ids), _PER_CALL)]
        while batches:
            batch = batches.pop(0)
            try:
                await self._write(
                    target,
                    "RevokeSecurityGroupIngress",
                    lambda batch=batch: ec2.revoke_security_group_ingress(  # type: ignore[misc]
                        GroupId=target.id, SecurityGroupRuleIds=batch
                    ),
                    also=_GONE_ERRORS,
                )
                outcomes |= {id_: Revoked() for id_ in batch}
            except ClientError as error:
                named = {id_ for id_ in _RULE_ID.findall(str(error)) if id_ in batch}
                gone = named or (set(batch) if len(batch) == 1 else set())
                outcomes |= {id_: Revoked() for id_ in gone}
                rest = [id_ for id_ in batch if id_ not in gone]
                batches[:0] = _halves(rest) if not gone else [rest] if rest else []
            except UnknownOutcomeError:
                outcomes |= {id_: Unknown() for id_ in batch}
            except ProviderError as error:
                outcomes |= {id_: error for batch in (batch, *batches) for id_ in batch}
                break
        return outcomes

    async def relabel(
        self, access: Access, target: Target, descriptions: Mapping[str, str]
    ) -> Mapping[str, ProviderError | None]:
        """Set descriptions in one call; when one id is gone, each of the others is set by itself."""
        ec2 = (await self._pool.clients(access)).ec2

        async def update(ids: Iterable[str]) -> None:
            await self._write(
                target,
                "UpdateSecurityGroupRuleDescriptionsIngress",
                lambda: ec2.update_security_group_rule_descriptions_ingress(
                    GroupId=target.id,
                    SecurityGroupRuleDescriptions=[
                        {"SecurityGroupRuleId": id_, "Description": descriptions[id_]} for id_ in ids
                    ],
                ),
            )

        try:
            await update(descriptions)
        except ProviderError as error:
            if error.failure is not Failure.TERMINAL or len(descriptions) == 1:
                return dict.fromkeys(descriptions, error)
            outcomes: dict[str, ProviderError | None] = {}
            for id_ in descriptions:
                try:
                    await update([id_])
                    outcomes[id_] = None
                except ProviderError as refused:
                    outcomes[id_] = refused
            return outcomes
        return dict.fromkeys(descriptions)

    async def tag(self, access: Access, target: Target, ids: Sequence[str], owner: str) -> None:
        """Put the owner's tag on rules."""
        ec2 = (await self._pool.clients(access)).ec2
        await self._write(
            target,
            "CreateTags",
            lambda: ec2.create_tags(Resources=list(ids), Tags=[{"Key": OWNER_TAG, "Value": owner}]),
        )

    def delay(self, target: Target) -> float:
        """Seconds that the target's next write had better wait for company."""
        return self._pacing[target.account, target.region].delay(target, asyncio.get_running_loop().time())

    # one call

    async def _read(self, access: Access, action: str, call: Callable[[], T]) -> T:
        try:
            return await self._call((self._accounts.get(access, ""), access.region), action, call)
        except UnknownOutcomeError as error:
            raise ProviderError(Failure.RETRY, "NoAnswer", str(error)) from None

    async def _write(self, target: Target, action: str, call: Callable[[], T], also: frozenset[str] = frozenset()) -> T:
        place = (target.account, target.region)
        self._pacing[place].wrote(target, asyncio.get_running_loop().time())
        return await self._call(place, action, call, also)

    async def _call(
        self, place: tuple[str, str], action: str, call: Callable[[], T], also: frozenset[str] = frozenset()
    ) -> T:
        """Wait for a token, then call; raises ClientError for the codes in `also`, which the caller can mend."""
        bucket = self._pacing[place].bucket(action)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(bucket.take(loop.time()))

        def attempt() -> T | ClientError:
            try:
                return call()
            except ClientError as error:
                if code_of(error) in also:
                    return error
                raise

        try:
            answer = await self._pool.run(f"ec2:{action}", attempt)
        except ProviderError as error:
            if error.reason in THROTTLED:
                bucket.drain(loop.time())
            raise
        if isinstance(answer, ClientError):
            raise answer
        return answer


_DUPLICATE: Final = "InvalidPermission.Duplicate"
_FULL: Final = "RulesPerSecurityGroupLimitExceeded"
_BATCH_ERRORS: Final = frozenset({_DUPLICATE, _FULL})
_GONE_ERRORS: Final = frozenset({"InvalidSecurityGroupRuleId.NotFound", "InvalidPermission.NotFound"})


def _blamed(error: ClientError, batch: list[NewRule]) -> tuple[dict[Rule, GrantOutcome], list[list[NewRule]]]:
    """Who is to blame for a failed batch, and what to try again without it."""
    outcome: GrantOutcome = Duplicate() if code_of(error) == _DUPLICATE else Full()
    if len(batch) == 1:
        return {batch[0].rule: outcome}, []
    named = _named_duplicate(str(error)) if isinstance(outcome, Duplicate) else None
    if named is not None and any(new.rule == named for new in batch):
        return {named: outcome}, [[new for new in batch if new.rule != named]]
    return {}, _halves(batch)


def _halves(batch: list[T]) -> list[list[T]]:
    middle = (len(batch) + 1) // 2
    return [half for half in (batch[:middle], batch[middle:]) if half]


def _named_duplicate(message: str) -> Rule | None:
    """EC2: the specified rule "peer: 203.0.113.7/32, TCP, from port: 5432, to port: 5432, ALLOW" already exists."""
    match = _NAMED_DUPLICATE.search(message)
    if match is None:
        return None
    try:
        cidr = canonical_cidr(match["cidr"])
    except ValueError:
        return None
    return _rule(cidr, match["protocol"].lower(), int(match["port"]), int(match["end"]))


def _rule(cidr: str, protocol: str, port: int | None, end: int | None) -> Rule | None:
    """The canonical rule; None for one that we never make, such as a single ICMP type."""
    name = _PROTOCOLS.get(protocol, protocol)
    match name:
        case "tcp" | "udp" if port is not None and end is not None:
            return Rule(cidr, name, port, end)
        case "all":
            return Rule(cidr, "all")
        case "icmp" | "icmpv6" if port in (-1, None):
            return Rule(cidr, name)
    return None


def _identity(rule: "SecurityGroupRuleTypeDef") -> Rule | None:
    cidr = rule.get("CidrIpv4") or rule.get("CidrIpv6")
    if not cidr:
        return None
    return _rule(canonical_cidr(cidr), rule.get("IpProtocol", ""), rule.get("FromPort"), rule.get("ToPort"))


def _observed(rule: "SecurityGroupRuleTypeDef", entries: Mapping[str, int]) -> ObservedRule:
    if rule.get("CidrIpv4"):
        weight = (1, 0)
    elif rule.get("CidrIpv6"):
        weight = (0, 1)
    else:
        most = entries.get(rule.get("PrefixListId", ""), 1)
        weight = (most, most)
    tags = {tag.get("Key"): tag.get("Value") for tag in rule.get("Tags", [])}
    return ObservedRule(
        rule["SecurityGroupRuleId"], _identity(rule), rule.get("Description", ""), tags.get(OWNER_TAG), weight
    )


def _permissions(batch: Sequence[NewRule]) -> "list[IpPermissionTypeDef]":
    """One IpPermission for each protocol and port range, as EC2 wants it."""
    grouped: defaultdict[tuple[str, int | None, int | None], list[NewRule]] = defaultdict(list)
    for new in batch:
        grouped[new.rule.protocol, new.rule.port, new.rule.end_port].append(new)
    permissions: list[IpPermissionTypeDef] = []
    for (protocol, port, end), members in grouped.items():
        permission: dict[str, Any] = {"IpProtocol": _AWS_PROTOCOLS.get(protocol, protocol)}
        if protocol in ("icmp", "icmpv6"):
            permission |= {"FromPort": -1, "ToPort": -1}
        elif port is not None:
            permission |= {"FromPort": port, "ToPort": end}
        for family, plural, single in ((4, "IpRanges", "CidrIp"), (6, "Ipv6Ranges", "CidrIpv6")):
            ranges = [
                {single: new.rule.cidr, "Description": new.description} for new in members if new.rule.family == family
            ]
            if ranges:
                permission[plural] = ranges
        permissions.append(permission)  # type: ignore[arg-type]
    return permissions
