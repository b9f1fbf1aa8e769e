"""AWS security groups: one Authorize or one Revoke for all the rules of a call, whatever their number."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from botocore import xform_name

from gatepass.core.errors import TARGET_NOT_FOUND, Failure, ProviderError, UnknownOutcomeError
from gatepass.core.plan import Write
from gatepass.core.ports import (
    Access,
    Duplicate,
    Fence,
    Full,
    Gone,
    Granted,
    GrantOutcome,
    NewRule,
    RelabelOutcome,
    Revoked,
    RevokeOutcome,
    Secrets,
    Still,
    TargetFacts,
    Unknown,
)
from gatepass.core.rules import ObservedRule, Rule, Stamp, Target
from gatepass.providers.aws_answers import inbound
from gatepass.providers.aws_batches import each
from gatepass.providers.aws_clients import AwsClients, Clients, Told
from gatepass.providers.aws_errors import DUPLICATE, FULL, GONE, THROTTLED, names_id
from gatepass.providers.aws_joint import Joint
from gatepass.providers.aws_pacing import ACTIONS, Pacing, ScarceError
from gatepass.providers.aws_rules import OWNER_TAG, entries_of, identity, named_duplicate, observed, permissions, tags

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import DescribeSecurityGroupRulesResultTypeDef, SecurityGroupRuleTypeDef

T = TypeVar("T")

_QUOTA: Final = ("vpc", "L-0EA8095F")
"""Inbound or outbound rules per security group (Service Quotas, Amazon VPC)."""
_DEFAULT_LIMIT: Final = 60
_PER_PAGE: Final = 1000
_PER_FILTER: Final = 200
"""Values that a filter takes (EC2 API reference, Filter)."""
_GROUPS_PER_READ: Final = 16
"""Groups whose rules are read together: those of 16 full ones fit on one page."""
_THREADS: Final = 32
"""As many as the engine has passes under way at a time."""
_NO_ANSWER: Final = ProviderError(Failure.RETRY, "NoAnswer", "the answer was lost; tried again in a moment")


class AwsSecurityGroups:
    """The `Provider` of security groups, for every account and Region and every way to sign in.

    `monotonic` is a clock in seconds; pauses are asyncio's. `told` hears of every call. What `fence` forbids is
    answered with RETRY, and not sent; without one nothing is forbidden, for who is alone.
    """

    def __init__(
        self,
        secrets: Secrets,
        threads: int = _THREADS,
        monotonic: Callable[[], float] = time.monotonic,
        told: Told = lambda _action, _outcome, _seconds: None,
        fence: Fence = lambda _seconds: True,
        *,
        scheduler: bool = False,
    ) -> None:
        self._clients = AwsClients(secrets, threads, fence, monotonic, told, scheduler=scheduler)
        self._monotonic = monotonic
        self._pacing: defaultdict[tuple[str, str], Pacing] = defaultdict(Pacing)
        self._accounts: dict[Access, str] = {}
        self._limits: dict[tuple[str, str], int] = {}
        self._most: dict[tuple[Access, Target], int] = {}
        self._callers = Joint(self._caller, 1)
        self._groups = Joint(self._inspected, _PER_FILTER)
        self._members = Joint(self._rules_of, _GROUPS_PER_READ)

    async def warm_up(self) -> None:
        """Do beforehand what the first call would have to wait for."""
        await self._clients.warm_up()

    async def end(self) -> None:
        """Start no more calls, and return when those under way have ended."""
        await self._clients.end()

    def close(self) -> None:
        """End the threads and close the connections."""
        self._clients.close()

    @property
    def clients(self) -> AwsClients:
        """What signs in and calls; other services are called through it too."""
        return self._clients

    # reading

    async def identify(self, access: Access) -> str:
        """The account that the credentials belong to (sts:GetCallerIdentity), with a Secret read anew."""
        return (await self._callers.of(access, [""]))[""]

    async def _caller(self, access: Access, _: Collection[str]) -> Mapping[str, str]:
        await self._clients.renew(access)
        answer = await self._clients.read(access, "sts:GetCallerIdentity", lambda aws: aws.sts.get_caller_identity())
        self._accounts[access] = answer["Account"]
        return {"": answer["Account"]}

    async def inspect(self, access: Access, ids: Sequence[str]) -> Mapping[str, TargetFacts | ProviderError]:
        """Names, VPCs and limits. Asked by a filter: by GroupIds, one missing group would fail the whole call."""
        if not ids:
            return {}
        found = await self._groups.of(access, ids)
        return {id_: found[id_] for id_ in ids}

    async def _inspected(self, access: Access, ids: Collection[str]) -> Mapping[str, TargetFacts | ProviderError]:
        answer = await self._read(
            access,
            "DescribeSecurityGroups",
            lambda aws: aws.ec2.describe_security_groups(
                Filters=[{"Name": "group-id", "Values": list(ids)}], MaxResults=_PER_PAGE
            ),
        )
        limit = await self._limit(access)
        found = {
            group["GroupId"]: TargetFacts(group.get("GroupName", ""), group.get("VpcId"), limit)
            for group in answer["SecurityGroups"]
        }
        place = f"{access.region} of account {self._accounts.get(access, 'unknown')}"
        return {
            id_: found.get(id_)
            or ProviderError(
                Failure.NOT_FOUND,
                TARGET_NOT_FOUND,
                f"security group {id_} does not exist in {place}: correct the id, the region or the credentials",
            )
            for id_ in ids
        }

    async def _limit(self, access: Access) -> int:
        """The quota of the account in the Region; when it cannot be asked, what it was, or AWS's default."""
        place = self._place(access)
        try:
            answer = await self._clients.read(
                access,
                "servicequotas:GetServiceQuota",
                lambda aws: aws.quotas.get_service_quota(ServiceCode=_QUOTA[0], QuotaCode=_QUOTA[1]),
            )
        except ProviderError:
            return self._limits.get(place, _DEFAULT_LIMIT)
        self._limits[place] = int(answer["Quota"]["Value"])
        return self._limits[place]

    async def observe(self, access: Access, target: Target) -> Sequence[ObservedRule]:
        """Every inbound rule. A prefix list weighs its most entries, or 1 when those may not be asked.

        A group that does not exist has no rules: EC2's answer to a filter does not tell the two apart.
        """
        found = (await self._members.of(access, [target.id]))[target.id]
        entries = await self._entries(access, {rule["PrefixListId"] for rule in found if rule.get("PrefixListId")})
        return [observed(rule, entries) for rule in found]

    async def find(self, access: Access, owner: str | None) -> Sequence[tuple[Target, ObservedRule]]:
        """Every inbound rule of the Region with the owner's tag, in whatever group; for None, of any owner."""
        found = await self._rules(access, f"tag:{OWNER_TAG}", ["*" if owner is None else owner])
        return [
            (Target(access.provider, rule["GroupOwnerId"], access.region, rule["GroupId"]), observed(rule, {}))
            for rule in found
        ]

    async def regions(self, access: Access) -> Sequence[str]:
        """The Regions that are enabled for the account."""
        answer = await self._read(access, "DescribeRegions", lambda aws: aws.ec2.describe_regions())
        return sorted(region["RegionName"] for region in answer["Regions"])

    async def describe(self, access: Access, action: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """One paced call of another Describe action of EC2; raises ProviderError."""
        answer: Mapping[str, Any] = await self._read(
            access, action, lambda aws: getattr(aws.ec2, xform_name(action))(**parameters)
        )
        return answer

    async def _rules_of(self, access: Access, ids: Collection[str]) -> "Mapping[str, list[SecurityGroupRuleTypeDef]]":
        """The inbound rules by group. Between two pages rules come and go: a group is read on as few as it can be."""
        page = await self._page(access, "group-id", ids, {}) if len(ids) > 1 else None
        if page is None or page.get("NextToken"):
            return {id_: await self._rules(access, "group-id", [id_]) for id_ in ids}
        found: dict[str, list[SecurityGroupRuleTypeDef]] = {id_: [] for id_ in ids}
        for rule in inbound(page):
            found[rule["GroupId"]].append(rule)
        return found

    async def _rules(self, access: Access, name: str, values: Collection[str]) -> "list[SecurityGroupRuleTypeDef]":
        """The inbound rules that pass a filter, page by page."""
        found: list[SecurityGroupRuleTypeDef] = []
        following: dict[str, Any] = {}
        while True:
            page = await self._page(access, name, values, following)
            found += inbound(page)
            if not page.get("NextToken"):
                return found
            following = {"NextToken": page["NextToken"]}

    async def _page(
        self, access: Access, name: str, values: Collection[str], following: dict[str, Any]
    ) -> "DescribeSecurityGroupRulesResultTypeDef":
        return await self._read(
            access,
            "DescribeSecurityGroupRules",
            lambda aws: aws.ec2.describe_security_group_rules(
                Filters=[{"Name": name, "Values": list(values)}], MaxResults=_PER_PAGE, **following
            ),
        )

    async def _entries(self, access: Access, lists: set[str]) -> dict[str, int]:
        if not lists:
            return {}
        try:
            filters = [{"Name": "prefix-list-id", "Values": sorted(lists)}]
            answer = await self.describe(access, "DescribeManagedPrefixLists", {"Filters": filters})
        except ProviderError:
            return {}
        return entries_of(answer["PrefixLists"])

    # writing

    async def grant(
        self,
        access: Access,
        target: Target,
        rules: Sequence[NewRule],
        stamp: Stamp,
        still: Still = lambda _rule: True,
    ) -> Mapping[Rule, GrantOutcome]:
        """Put the rules in one call; while one is refused, the others are put without it."""
        full, half, scarce = set[int](), 0, False

        async def put(batch: list[NewRule]) -> dict[NewRule, GrantOutcome]:
            outcomes: dict[NewRule, GrantOutcome] = {new: Full() for new in batch if new.rule.family in full}
            fitting = [new for new in batch if new not in outcomes and still(new.rule)]
            try:
                return outcomes | (await self._authorize(access, target, fitting, stamp) if fitting else {})
            except UnknownOutcomeError:
                return outcomes | dict.fromkeys(fitting, Unknown())
            except (ProviderError, ScarceError) as error:
                nonlocal half, scarce
                if isinstance(error, ScarceError):
                    scarce = True
                elif not any(names(error, new) for new in batch):
                    half = max(len(batch) // 2, 1)
                raise

        def refused(error: ProviderError, new: NewRule) -> GrantOutcome:
            if error.reason == FULL:
                full.add(new.rule.family)  # all rules of a family weigh the same: no other fits either
                return Full()
            return Duplicate() if error.reason == DUPLICATE else error

        def names(error: ProviderError, new: NewRule) -> bool:
            return error.reason == DUPLICATE and new.rule == named_duplicate(error.message)

        lost: GrantOutcome = Unknown()
        most = self._most.pop((access, target), len(rules))
        outcomes = await each(rules[:most], put, names=names, refused=refused, lost=lost)
        if half and scarce:
            self._most[access, target] = half  # more in one call would be refused again
        return {new.rule: outcome for new, outcome in outcomes.items()}

    async def _authorize(
        self, access: Access, target: Target, batch: list[NewRule], stamp: Stamp
    ) -> dict[NewRule, GrantOutcome]:
        answer = await self._write(
            access,
            target,
            ACTIONS["grants"],
            lambda aws: aws.ec2.authorize_security_group_ingress(
                GroupId=target.id,
                IpPermissions=permissions(batch),
                TagSpecifications=[{"ResourceType": "security-group-rule", "Tags": tags(stamp)}],
            ),
        )
        ids = {identity(made): made["SecurityGroupRuleId"] for made in answer["SecurityGroupRules"]}
        return {new: Granted(ids[new.rule]) if new.rule in ids else Unknown() for new in batch}

    async def revoke(
        self, access: Access, target: Target, ids: Sequence[str], *, doubtful: bool = False
    ) -> Mapping[str, RevokeOutcome]:
        """Remove the rules by id in one call; while one is gone, the others go without it."""

        async def remove(batch: list[str]) -> dict[str, RevokeOutcome]:
            await self._write(
                access,
                target,
                ACTIONS["revokes"],
                lambda aws: aws.ec2.revoke_security_group_ingress(GroupId=target.id, SecurityGroupRuleIds=batch),
                doubtful=doubtful,
            )
            return dict.fromkeys(batch, Revoked())

        def refused(error: ProviderError, _: str) -> RevokeOutcome:
            if error.reason == GONE:
                self._pacing[target.account, target.region].misled(self._monotonic())
            return Gone() if error.reason == GONE else error

        return await each(ids, remove, names=names_id, refused=refused, lost=Unknown())

    async def relabel(
        self, access: Access, target: Target, descriptions: Mapping[str, str]
    ) -> Mapping[str, RelabelOutcome]:
        """Set descriptions in one call; while one is refused, the others are set without it."""

        async def update(batch: list[str]) -> dict[str, RelabelOutcome]:
            await self._write(
                access,
                target,
                ACTIONS["relabels"],
                lambda aws: aws.ec2.update_security_group_rule_descriptions_ingress(
                    GroupId=target.id,
                    SecurityGroupRuleDescriptions=[
                        {"SecurityGroupRuleId": id_, "Description": descriptions[id_]} for id_ in batch
                    ],
                ),
            )
            return dict.fromkeys(batch)

        def refused(error: ProviderError, _: str) -> RelabelOutcome:
            return Gone() if error.reason == GONE else error

        return await each(list(descriptions), update, names=names_id, refused=refused, lost=_NO_ANSWER)

    async def tag(self, access: Access, target: Target, ids: Sequence[str], owner: str) -> Collection[str]:
        """Put the owner's tag on rules."""
        try:
            if ids:
                await self._write(
                    access,
                    target,
                    ACTIONS["retags"],
                    lambda aws: aws.ec2.create_tags(Resources=list(ids), Tags=[{"Key": OWNER_TAG, "Value": owner}]),
                )
        except ScarceError:
            return ()
        return ids

    def delay(self, target: Target) -> float:
        """Seconds that the target's next write had better wait for company."""
        return self._pacing[target.account, target.region].delay(target, self._monotonic())

    def closing_delay(self, target: Target) -> float:
        """By the account's and Region's request buckets, for a write that closes."""
        return self._pacing[target.account, target.region].closing_delay(target, self._monotonic())

    def reserve(self, target: Target, kinds: Collection[Write], *, doubtful: bool = False) -> Mapping[Write, float]:
        """Seconds until there is a token for each."""
        pacing = self._pacing[target.account, target.region]
        return pacing.reserve_all(target, kinds, self._monotonic(), doubtful=doubtful)

    def patience(self, target: Target) -> float:
        """Seconds without company after which its wait may end early."""
        return self._pacing[target.account, target.region].patience(self._monotonic())

    # one call

    def _place(self, access: Access) -> tuple[str, str]:
        return self._accounts.get(access, ""), access.region

    async def _read(self, access: Access, action: str, request: Callable[[Clients], T]) -> T:
        place = self._place(access)
        take = self._pacing[place].bucket(action).take
        return await self._clients.read(access, f"ec2:{action}", request, self._paced(place, action, take))

    async def _write(
        self, access: Access, target: Target, action: str, request: Callable[[Clients], T], *, doubtful: bool = False
    ) -> T:
        place = target.account, target.region
        spend = partial(self._pacing[place].spend, target, action, doubtful=doubtful)
        return await self._clients.call(access, f"ec2:{action}", request, self._paced(place, action, spend))

    @asynccontextmanager
    async def _paced(self, place: tuple[str, str], action: str, take: Callable[[float], float]) -> AsyncIterator[None]:
        """Take a token, and wait until it is there; who is not let through, as AWS is silent, takes none."""
        try:
            with self._clients.lines.call(place, self._monotonic()):
                await asyncio.sleep(take(self._monotonic()))
                yield
        except ProviderError as error:
            if error.reason in THROTTLED:
                self._pacing[place].bucket(action).drain(self._monotonic())
            raise
