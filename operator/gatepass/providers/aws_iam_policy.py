"""The least IAM policy that lets Gatepass work on the security groups of some ProtectedResources.

Sources, all of AWS: the Service Authorization Reference of Amazon EC2 (Authorize needs the group, and with
TagSpecifications also security-group-rule; Revoke and UpdateSecurityGroupRuleDescriptions need the group only; Describe
knows no resources), "Grant permission to tag Amazon EC2 resources during creation" in the EC2 user guide
(ec2:CreateAction), "Multivalued context keys" in the IAM user guide (why ForAllValues goes with Null), and the Service
Authorization Reference of EventBridge Scheduler with "Set up the execution role" in its user guide (iam:PassRole).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from gatepass.core.types.resource import ProtectedResource
from gatepass.providers.aws_rules import MAKER_TAG, OWNER_TAG
from gatepass.providers.aws_switches import PREFIX

_PARTITIONS: Final = {
    "cn-": "aws-cn",
    "eu-isoe-": "aws-iso-e",
    "eusc-": "aws-eusc",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
    "us-isof-": "aws-iso-f",
}
_READS: Final = ["ec2:DescribeManagedPrefixLists", "ec2:DescribeSecurityGroupRules", "ec2:DescribeSecurityGroups"]
_WRITES: Final = [
    "ec2:AuthorizeSecurityGroupIngress",
    "ec2:RevokeSecurityGroupIngress",
    "ec2:UpdateSecurityGroupRuleDescriptionsIngress",
]
_TOPOLOGY: Final = ["ec2:DescribeInstances", "ec2:DescribeNatGateways", "ec2:DescribeRouteTables", "ec2:DescribeVpcs"]
_SCHEDULES: Final = ["scheduler:CreateSchedule", "scheduler:DeleteSchedule", "scheduler:UpdateSchedule"]
# True of a request without any tag too, so that the second condition has to ask for one.
_ONLY_OUR_TAGS: Final = {
    "ForAllValues:StringEquals": {"aws:TagKeys": [MAKER_TAG, OWNER_TAG]},
    "Null": {"aws:TagKeys": "false"},
}


def iam_policy(
    resources: Iterable[ProtectedResource],
    account: str = "*",
    switch_roles: Iterable[str] = (),
    pods_in: Iterable[str] = (),
) -> dict[str, Any]:
    """The policy document for these resources; the same ones in any order give the same document.

    `account` is whose the groups are; by default what status says of it, else any. A resource with a role has its
    groups in the role's account. Groups that are still being drained count. `switch_roles` are the roles that dead
    man's switches use, one for an account. `pods_in` are the Regions of the clusters whose pods sessions name: it is
    the operator's own identity that looks there, whatever credentials the resources have.
    """
    switches = {arn.split(":")[4]: arn for arn in switch_roles}
    scheduled: set[str] = set()
    handed: set[str] = set()
    groups: set[str] = set()
    rules: set[str] = set()
    roles: set[str] = set()
    regions: set[str] = set()
    for resource in resources:
        firewall = resource.spec.aws
        role = firewall.credentials and firewall.credentials.role_arn
        owner = role.split(":")[4] if role else (resource.status.account or "*") if account == "*" else account
        prefix = f"arn:{partition(firewall.region)}:ec2:{firewall.region}:{owner}"
        ids = {*firewall.security_groups, *(target.id for target in resource.status.targets)}
        groups |= {f"{prefix}:security-group/{id_}" for id_ in ids}
        rules.add(f"{prefix}:security-group-rule/*")
        regions.add(firewall.region)
        for there, arn in switches.items():
            if owner in (there, "*"):
                scheduled.add(
                    f"arn:{partition(firewall.region)}:scheduler:{firewall.region}:{there}:schedule/default/{PREFIX}*"
                )
                handed.add(arn)
        roles |= {role} if role else set()
    return {
        "Version": "2012-10-17",
        "Statement": [
            *(_on_groups(groups, rules, regions) if groups else ()),
            *(_on_switches(scheduled, handed, regions) if handed else ()),
            *_on_pods(sorted(set(pods_in))),
            *([_allow("SignInWithTheRolesThatResourcesName", ["sts:AssumeRole"], roles)] if roles else ()),
        ],
    }


def _on_groups(groups: set[str], rules: set[str], regions: set[str]) -> list[dict[str, Any]]:
    here = {"StringEquals": {"aws:RequestedRegion": sorted(regions)}}
    return [
        _allow("OpenAndCloseTheGroups", _WRITES, groups),
        _allow("PutOnlyRulesWithOurTag", _WRITES[:1], rules, _ONLY_OUR_TAGS),
        _allow(
            "TagRulesAsTheyAreMade",
            ["ec2:CreateTags"],
            rules,
            {"StringEquals": {"ec2:CreateAction": "AuthorizeSecurityGroupIngress"}, **_ONLY_OUR_TAGS},
        ),
        _allow(
            "PutBackTagsThatWereTakenOff",
            ["ec2:CreateTags"],
            rules,
            {**_ONLY_OUR_TAGS, "Null": {"aws:TagKeys": "false", "ec2:CreateAction": "true"}},
        ),
        _allow("SeeRulesAndWhatTheyWeigh", _READS, {"*"}, here),
        _allow("AskHowManyRulesAGroupTakes", ["servicequotas:GetServiceQuota"], {"*"}, here),
    ]


def _on_switches(scheduled: set[str], handed: set[str], regions: set[str]) -> list[dict[str, Any]]:
    return [
        _allow("KeepDeadMansSwitches", _SCHEDULES, scheduled),
        _allow(
            "SeeDeadMansSwitches",
            ["scheduler:ListSchedules"],
            {"*"},
            {"StringEquals": {"aws:RequestedRegion": sorted(regions)}},
        ),
        _allow(
            "GiveDeadMansSwitchesTheirRole",
            ["iam:PassRole"],
            handed,
            {"StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}},
        ),
    ]


def _on_pods(regions: list[str]) -> list[dict[str, Any]]:
    here = {"StringEquals": {"aws:RequestedRegion": regions}}
    return [_allow("SeeWhereThePodsTrafficLeavesFrom", _TOPOLOGY, {"*"}, here)] if regions else []


def _allow(
    sid: str, actions: list[str], resources: set[str], condition: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    statement: dict[str, Any] = {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": sorted(resources)}
    return statement if condition is None else {**statement, "Condition": dict(condition)}


def partition(region: str) -> str:
    """The part of AWS that a Region belongs to, as ARNs call it."""
    return next((partition for prefix, partition in _PARTITIONS.items() if region.startswith(prefix)), "aws")
