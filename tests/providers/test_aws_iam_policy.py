"""The printed IAM policy: what it allows, on what, and that it is neither less nor more than what the provider does."""

from typing import Any

import pytest

from gatepass.core.ports import NewRule
from gatepass.core.rules import Rule
from gatepass.core.types.resource import ProtectedResource
from gatepass.providers.aws_iam_policy import iam_policy
from tests.providers.worlds import OWNER, STAMP, AwsWorld

ROLE = "arn:aws:iam::222233334444:role/ci/gatepass"


def resource(
    *groups: str,
    region: str = "eu-central-1",
    credentials: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
) -> ProtectedResource:
    aws = {"region": region, "securityGroups": groups, "credentials": credentials}
    return ProtectedResource.model_validate(
        {
            "metadata": {"name": "db", "namespace": "ci", "uid": "1", "creationTimestamp": "2026-11-22T16:00:00Z"},
            "spec": {"aws": aws, "ports": [{"port": 5432}]},
            "status": status or {},
        }
    )


def statements(policy: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {statement["Sid"]: statement for statement in policy["Statement"]}


@pytest.mark.parametrize(
    ("given", "account", "group"),
    [
        (resource("sg-0a"), "*", "arn:aws:ec2:eu-central-1:*:security-group/sg-0a"),
        (resource("sg-0a"), "111122223333", "arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0a"),
        (
            resource("sg-0a", status={"account": "444455556666"}),
            "*",
            "arn:aws:ec2:eu-central-1:444455556666:security-group/sg-0a",
        ),
        (
            resource("sg-0a", status={"account": "444455556666"}),
            "111122223333",
            "arn:aws:ec2:eu-central-1:111122223333:security-group/sg-0a",
        ),
        (
            resource("sg-0a", credentials={"roleARN": ROLE}),
            "111122223333",
            "arn:aws:ec2:eu-central-1:222233334444:security-group/sg-0a",
        ),
        (
            resource("sg-0a", credentials={"secretRef": {"name": "keys"}}),
            "*",
            "arn:aws:ec2:eu-central-1:*:security-group/sg-0a",
        ),
        (resource("sg-0a", region="cn-north-1"), "*", "arn:aws-cn:ec2:cn-north-1:*:security-group/sg-0a"),
        (resource("sg-0a", region="us-gov-west-1"), "*", "arn:aws-us-gov:ec2:us-gov-west-1:*:security-group/sg-0a"),
    ],
)
def test_a_group_is_named_by_its_whole_arn(given: ProtectedResource, account: str, group: str) -> None:
    found = statements(iam_policy([given], account))
    assert found["OpenAndCloseTheGroups"]["Resource"] == [group]
    rules = group.replace("security-group/sg-0a", "security-group-rule/*")
    for sid in ("PutOnlyRulesWithOurTag", "TagRulesAsTheyAreMade", "PutBackTagsThatWereTakenOff"):
        assert found[sid]["Resource"] == [rules]


def test_a_group_that_is_being_drained_counts() -> None:
    status = {"account": "444455556666", "targets": [{"id": "sg-0old", "name": "old", "draining": True}]}
    found = statements(iam_policy([resource("sg-0a", status=status)]))
    assert [arn.rsplit("/")[1] for arn in found["OpenAndCloseTheGroups"]["Resource"]] == ["sg-0a", "sg-0old"]


def test_the_order_of_resources_and_repetitions_change_nothing() -> None:
    some = [resource("sg-0a", "sg-0b"), resource("sg-0b", region="eu-west-1"), resource("sg-0b", "sg-0a")]
    assert iam_policy(some) == iam_policy(some[::-1]) == iam_policy(some[:2])


def test_reads_are_bound_to_the_regions() -> None:
    found = statements(iam_policy([resource("sg-0a", region="eu-west-1"), resource("sg-0a")]))
    for sid in ("SeeRulesAndWhatTheyWeigh", "AskHowManyRulesAGroupTakes"):
        assert found[sid]["Resource"] == ["*"]
        assert found[sid]["Condition"] == {"StringEquals": {"aws:RequestedRegion": ["eu-central-1", "eu-west-1"]}}


def test_only_the_roles_that_are_named_may_be_assumed() -> None:
    assert "SignInWithTheRolesThatResourcesName" not in statements(iam_policy([resource("sg-0a")]))
    found = statements(iam_policy([resource("sg-0a"), resource("sg-0a", credentials={"roleARN": ROLE})]))
    assert found["SignInWithTheRolesThatResourcesName"]["Action"] == ["sts:AssumeRole"]
    assert found["SignInWithTheRolesThatResourcesName"]["Resource"] == [ROLE]


def test_no_tag_but_ours_can_be_put_and_none_on_what_is_no_rule() -> None:
    found = statements(iam_policy([resource("sg-0a")]))
    tagging = [statement for statement in found.values() if "ec2:CreateTags" in statement["Action"]]
    assert [statement["Sid"] for statement in tagging] == ["TagRulesAsTheyAreMade", "PutBackTagsThatWereTakenOff"]
    for statement in tagging:
        assert statement["Condition"]["ForAllValues:StringEquals"] == {
            "aws:TagKeys": ["gatepass.dev/made-by", "gatepass.dev/owner"]
        }
        assert statement["Condition"]["Null"]["aws:TagKeys"] == "false"
        assert all(arn.endswith(":security-group-rule/*") for arn in statement["Resource"])
    created, repaired = (statement["Condition"] for statement in tagging)
    assert created["StringEquals"] == {"ec2:CreateAction": "AuthorizeSecurityGroupIngress"}
    assert repaired["Null"]["ec2:CreateAction"] == "true", "tags on create are for the other statement to allow"


def test_switches_have_their_own_names_and_their_role_goes_to_scheduler_only() -> None:
    role = "arn:aws:iam::444455556666:role/gatepass-switch"
    some = [resource("sg-0a", status={"account": "444455556666"}), resource("sg-0b", region="eu-west-1")]
    found = statements(iam_policy(some, switch_roles=[role]))
    assert found["KeepDeadMansSwitches"]["Resource"] == [
        f"arn:aws:scheduler:{region}:444455556666:schedule/default/gatepass-*"
        for region in ("eu-central-1", "eu-west-1")
    ]
    assert found["GiveDeadMansSwitchesTheirRole"]["Resource"] == [role]
    assert found["GiveDeadMansSwitchesTheirRole"]["Condition"] == {
        "StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}
    }
    elsewhere = [resource("sg-0a", status={"account": "111122223333"})]
    assert iam_policy(elsewhere, switch_roles=[role]) == iam_policy(elsewhere), "the role is of another account"


def test_every_statement_is_named_and_nothing_is_left_open() -> None:
    policy = iam_policy([resource("sg-0a", credentials={"roleARN": ROLE})])
    assert policy["Version"] == "2012-10-17"
    assert len(statements(policy)) == len(policy["Statement"])
    for statement in policy["Statement"]:
        assert statement["Sid"].isalnum(), "IAM takes letters and digits"
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in statement["Action"])


def test_without_resources_nothing_is_allowed() -> None:
    assert iam_policy([])["Statement"] == []


def test_where_pods_leave_from_is_seen_in_the_clusters_regions_only() -> None:
    found = statements(iam_policy([resource("sg-0a")], pods_in=["eu-west-1", "us-east-1", "eu-west-1"]))
    seen = found["SeeWhereThePodsTrafficLeavesFrom"]
    assert seen["Action"] == [
        "ec2:DescribeInstances",
        "ec2:DescribeNatGateways",
        "ec2:DescribeRouteTables",
        "ec2:DescribeVpcs",
    ]
    assert seen["Condition"] == {"StringEquals": {"aws:RequestedRegion": ["eu-west-1", "us-east-1"]}}
    assert "SeeWhereThePodsTrafficLeavesFrom" not in statements(iam_policy([resource("sg-0a")]))


async def test_it_allows_what_the_provider_calls_and_no_more(aws_world: AwsWorld) -> None:
    target, provider, access = aws_world.firewall(), aws_world.provider, aws_world.access
    office = aws_world.ec2.create_managed_prefix_list(PrefixListName="office", MaxEntries=5, AddressFamily="IPv4")
    lists = [{"PrefixListId": office["PrefixList"]["PrefixListId"]}]
    aws_world.ec2.authorize_security_group_ingress(
        GroupId=target.id,
        IpPermissions=[{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "PrefixListIds": lists}],
    )
    before = len(aws_world.calls())
    await provider.identify(access)
    await provider.inspect(access, [target.id])
    await provider.grant(access, target, [NewRule(Rule("203.0.113.7/32", "tcp", 22, 22), "gatepass")], STAMP)
    (id_,) = [seen.id for seen in await provider.observe(access, target) if seen.rule is not None]
    await provider.relabel(access, target, {id_: "gatepass again"})
    await provider.tag(access, target, [id_], OWNER)
    await provider.revoke(access, target, [id_])
    called = {f"{entry['service']}:{entry['action']}" for entry in aws_world.calls()[before:]}
    allowed = {action for statement in iam_policy([resource("sg-0a")])["Statement"] for action in statement["Action"]}
    # Whoever has credentials may ask whose they are.
    assert called - {"sts:GetCallerIdentity"} == allowed
