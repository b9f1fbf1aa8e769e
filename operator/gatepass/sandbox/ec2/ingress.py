"""The EC2 actions on ingress rules, answered here and not by moto; the state stays moto's."""

import base64
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from moto.ec2.models.security_groups import SecurityGroup

from gatepass.sandbox.ec2 import rules
from gatepass.sandbox.ec2.query import AwsError

HISTORY_SECONDS = 600.0
_PAGE = range(5, 1001)
_REVOKED_FIELDS = (
    "securityGroupRuleId",
    "groupId",
    "isEgress",
    "ipProtocol",
    "fromPort",
    "toPort",
    "cidrIpv4",
    "cidrIpv6",
    "prefixListId",
    "description",
)


class History:
    """What groups looked like before each write, so that a read can lag behind the writes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._before: dict[str, list[tuple[float, list[dict[str, Any]]]]] = {}

    def record(self, group: SecurityGroup) -> None:
        """Keep the present state of `group`; call it just before a write."""
        now = self._clock()
        kept = [entry for entry in self._before.get(group.id, []) if now - entry[0] < HISTORY_SECONDS]
        self._before[group.id] = [*kept, (now, [rules.view(rule) for rule in group.ingress_rules])]

    def ingress(self, group: SecurityGroup, seconds_ago: float) -> list[dict[str, Any]]:
        """The ingress rules of `group` as they were then."""
        if seconds_ago > 0:
            moment = self._clock() - seconds_ago
            for at, before in self._before.get(group.id, ()):
                if at > moment:
                    return before
        return [rules.view(rule) for rule in group.ingress_rules]


class Made(list[str]):
    """Ids of rules that a call made, for the call log."""


def authorize(backend: Any, params: Mapping[str, Any], quota: int) -> tuple[dict[str, Any], Made]:
    """AuthorizeSecurityGroupIngress."""
    group = rules.find_group(backend, params)
    wanted, tags = rules.permissions(params, backend.account_id), rules.checked_tags(params)
    check_dry_run(params)
    made = rules.authorize(backend, group, wanted, tags, quota)
    return {"return": True, "securityGroupRuleSet": [rules.view(rule) for rule in made]}, Made(rule.id for rule in made)


def revoke(backend: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """RevokeSecurityGroupIngress, by ids or by permissions; all or nothing but in a default VPC."""
    group = rules.find_group(backend, params)
    unknown: list[rules.Permission] = []
    if ids := params.get("SecurityGroupRuleId"):
        going = rules.rules_by_id(group, ids)
    else:
        present = {rules.identity(rule): rule for rule in group.ingress_rules}
        wanted = [permission for permission, _ in rules.permissions(params, backend.account_id)]
        unknown = [permission for permission in wanted if permission not in present]
        if unknown and not _in_default_vpc(backend, group):
            raise AwsError("InvalidPermission.NotFound", "The specified rule does not exist in this security group.")
        going = [present[permission] for permission in wanted if permission in present]
    check_dry_run(params)
    shown = [rules.view(rule) for rule in going]
    gone = {rule.id for rule in going}
    group.ingress_rules = [rule for rule in group.ingress_rules if rule.id not in gone]
    for rule_id in gone:
        backend.tags.pop(rule_id, None)
    return {
        "return": True,
        "unknownIpPermissionSet": [_unknown(permission) for permission in unknown],
        "revokedSecurityGroupRuleSet": [
            {name: rule[name] for name in _REVOKED_FIELDS if name in rule}
            | {"referencedGroupId": rule.get("referencedGroupInfo", {}).get("groupId")}
            for rule in shown
        ],
    }


def _in_default_vpc(backend: Any, group: SecurityGroup) -> bool:
    vpc = backend.vpcs.get(group.vpc_id)
    return bool(vpc and vpc.is_default)


def _unknown(permission: rules.Permission) -> dict[str, Any]:
    ports = {} if permission.from_port < 0 else {"fromPort": permission.from_port, "toPort": permission.to_port}
    source = {
        "cidr4": {"ipRanges": [{"cidrIp": permission.value}]},
        "cidr6": {"ipv6Ranges": [{"cidrIpv6": permission.value}]},
        "group": {"groups": [{"groupId": permission.value.partition("/")[2]}]},
        "prefix-list": {"prefixListIds": [{"prefixListId": permission.value}]},
    }[permission.source]
    return {"ipProtocol": permission.protocol, **ports, **source}


def update_descriptions(backend: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """UpdateSecurityGroupRuleDescriptionsIngress, by ids (which moto ignores) or by permissions."""
    group = rules.find_group(backend, params)
    if entries := params.get("SecurityGroupRuleDescription"):
        found = rules.rules_by_id(group, [entry.get("SecurityGroupRuleId", "") for entry in entries])
        texts = {entry["SecurityGroupRuleId"]: rules.checked_description(entry.get("Description")) for entry in entries}
        changes = [(rule, texts[rule.id]) for rule in found]
    else:
        present = {rules.identity(rule): rule for rule in group.ingress_rules}
        wanted = rules.permissions(params, backend.account_id)
        if any(permission not in present for permission, _ in wanted):
            raise AwsError("InvalidPermission.NotFound", "The specified rule does not exist in this security group.")
        changes = [(present[permission], text) for permission, text in wanted]
    check_dry_run(params)
    for rule, text in changes:
        place = rule.source_group if rule.source_group else rule.ip_range
        place.pop("Description", None)
        if text is not None:
            place["Description"] = text
    return {"return": True}


def describe(backend: Any, params: Mapping[str, Any], history: History, lag_seconds: float) -> dict[str, Any]:
    """DescribeSecurityGroupRules: filters on group-id, security-group-rule-id and tags; pages of 5 to 1000."""
    size, after, ids = params.get("MaxResults"), params.get("NextToken"), params.get("SecurityGroupRuleId")
    if size is not None and (not size.isdigit() or int(size) not in _PAGE):
        raise AwsError("InvalidParameterValue", f"Value ( {size} ) for parameter maxResults is invalid.")
    if size is not None and ids:
        raise AwsError(
            "InvalidParameterCombination",
            "The parameter securityGroupRuleIds cannot be used with the parameter maxResults",
        )
    check_dry_run(params)
    groups = _selected_groups(backend, params)
    found = [rule for group in groups for rule in _all_rules(group, history, lag_seconds)]
    if ids:
        known = {rule["securityGroupRuleId"] for rule in found}
        for rule_id in ids:
            if rule_id not in known:
                message = f"The security group rule ID '{rule_id}' does not exist"
                raise AwsError("InvalidSecurityGroupRuleId.NotFound", message)
        found = [rule for rule in found if rule["securityGroupRuleId"] in ids]
    for condition in params.get("Filter") or ():
        found = [rule for rule in found if _passes(rule, condition)]
    found.sort(key=lambda rule: str(rule["securityGroupRuleId"]))
    if after:
        last = _decode_token(after)
        found = [rule for rule in found if rule["securityGroupRuleId"] > last]
    if size is None or len(found) <= int(size):
        return {"securityGroupRuleSet": found}
    page = found[: int(size)]
    token = base64.urlsafe_b64encode(page[-1]["securityGroupRuleId"].encode()).decode()
    return {"securityGroupRuleSet": page, "nextToken": token}


def _selected_groups(backend: Any, params: Mapping[str, Any]) -> Iterable[SecurityGroup]:
    """The groups that can match: by the group-id filter if there is one without wildcards."""
    everything = {group.id: group for groups in backend.groups.values() for group in groups.values()}
    for condition in params.get("Filter") or ():
        values = condition.get("Value") or []
        if condition.get("Name") == "group-id" and not any(set("*?") & set(value) for value in values):
            return [everything[value] for value in dict.fromkeys(values) if value in everything]
    return list(everything.values())


def _all_rules(group: SecurityGroup, history: History, lag_seconds: float) -> list[dict[str, Any]]:
    return [*history.ingress(group, lag_seconds), *(rules.view(rule) for rule in group.egress_rules)]


def _passes(rule: Mapping[str, Any], condition: Mapping[str, Any]) -> bool:
    name, patterns = condition.get("Name", ""), condition.get("Value") or []
    if name == "group-id":
        values = [rule["groupId"]]
    elif name == "security-group-rule-id":
        values = [rule["securityGroupRuleId"]]
    elif name.startswith("tag:"):
        values = [tag["value"] for tag in rule["tagSet"] if tag["key"] == name[4:]]
    elif name == "tag-key":
        values = [tag["key"] for tag in rule["tagSet"]]
    else:
        raise AwsError("InvalidParameterValue", f"The filter '{name}' is invalid")
    return any(_wildcard(pattern).fullmatch(value) for pattern in patterns for value in values)


def _wildcard(pattern: str) -> re.Pattern[str]:
    return re.compile("".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern), re.DOTALL)


def _decode_token(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token).decode()
    except ValueError as error:
        raise AwsError("InvalidNextToken", "The token is invalid.") from error


def check_dry_run(params: Mapping[str, Any]) -> None:
    """Raises AwsError DryRunOperation if the call asks only whether it would succeed."""
    if params.get("DryRun") == "true":
        raise AwsError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
