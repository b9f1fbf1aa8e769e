"""Ingress rules as AWS keeps them, each point one where moto alone is kinder."""

import pytest

from tests.conftest import AwsAccount
from tests.sandbox.aws import addresses, cidrs, ingress, new_group, refused, tcp


def owner_tag(value: str) -> list[dict[str, object]]:
    return [{"ResourceType": "security-group-rule", "Tags": [{"Key": "gatepass.dev/owner", "Value": value}]}]


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("100.68.0.18/18", "100.68.0.0/18"),
        ("203.0.113.7/32", "203.0.113.7/32"),
        ("2001:0DB8:0000::0007/128", "2001:db8::7/128"),
        ("2001:db8:0:1:ffff::/64", "2001:db8:0:1::/64"),
    ],
)
def test_a_cidr_is_stored_canonical_and_is_the_same_rule_in_any_spelling(
    aws: AwsAccount, given: str, stored: str
) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    made = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp(given))["SecurityGroupRules"]
    assert [rule.get("CidrIpv4") or rule.get("CidrIpv6") for rule in made] == [stored]
    assert cidrs(ec2, group) == {stored}
    for spelling in (given, stored):
        with refused("InvalidPermission.Duplicate", stored):
            ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp(spelling))


@pytest.mark.parametrize("cidr", ["203.0.113.7", "203.0.113.7/33", "1.2.3/24", "junk", "203.0.113.7/255.255.255.255"])
def test_what_is_no_cidr_is_refused(aws: AwsAccount, cidr: str) -> None:
    ec2 = aws.client("ec2")
    with refused("InvalidParameterValue", cidr):
        ec2.authorize_security_group_ingress(GroupId=new_group(ec2), IpPermissions=tcp(cidr))


@pytest.mark.parametrize(("given", "stored"), [("6", "tcp"), ("17", "udp"), ("TCP", "tcp")])
def test_protocols_have_one_name(aws: AwsAccount, given: str, stored: str) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    permissions = [{**tcp("203.0.113.7/32")[0], "IpProtocol": given}]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permissions)
    assert [rule["IpProtocol"] for rule in ingress(ec2, group)] == [stored]


def test_all_protocols_have_no_ports(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    ec2.authorize_security_group_ingress(
        GroupId=group, IpPermissions=[{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "203.0.113.7/32"}]}]
    )
    (rule,) = ingress(ec2, group)
    assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("-1", -1, -1)


@pytest.mark.parametrize("port", [(80, 79), (0, 65536), (-1, -1)])
def test_ports_out_of_range_are_refused(aws: AwsAccount, port: tuple[int, int]) -> None:
    ec2 = aws.client("ec2")
    permissions = [{**tcp("203.0.113.7/32")[0], "FromPort": port[0], "ToPort": port[1]}]
    with refused("InvalidParameterValue"):
        ec2.authorize_security_group_ingress(GroupId=new_group(ec2), IpPermissions=permissions)


@pytest.mark.parametrize("text", ["a" * 256, "what? no", "naïve", "a\nb", "back\\slash", '"quoted"'])
def test_a_description_that_ec2_does_not_store_is_refused(aws: AwsAccount, text: str) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    with refused("InvalidParameterValue", "Invalid rule description"):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("203.0.113.7/32", description=text))
    assert ingress(ec2, group) == []


def test_every_description_that_ec2_stores_is_taken(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    texts = ["a" * 255, "azAZ09 ._-:/()#,@[]+=&;{}!$*", "gatepass until=2026-11-22T16:00:00Z for=ci/staging-db"]
    for port, text in enumerate(texts):
        permissions = tcp("203.0.113.7/32", port=port, description=text)
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permissions)
    assert {rule["Description"] for rule in ingress(ec2, group)} == set(texts)


def test_authorize_is_all_or_nothing_and_names_the_duplicate(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("203.0.113.9/32", description="mine"))
    batch = [*tcp("203.0.113.7/32"), *tcp("203.0.113.9/32", description="another text"), *tcp("203.0.113.8/32")]
    with refused("InvalidPermission.Duplicate", "203.0.113.9/32, TCP, from port: 5432, to port: 5432"):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=batch)
    assert cidrs(ec2, group) == {"203.0.113.9/32"}


def test_one_call_makes_rules_of_several_permissions_with_ids_and_the_same_tags(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    made = ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[*tcp("203.0.113.7/32", "2001:db8::7/128"), *tcp("203.0.113.7/32", port=80)],
        TagSpecifications=owner_tag("install-1"),
    )["SecurityGroupRules"]
    assert len({rule["SecurityGroupRuleId"] for rule in made}) == 3
    assert all(rule["Tags"] == [{"Key": "gatepass.dev/owner", "Value": "install-1"}] for rule in made)
    assert sorted(rule["SecurityGroupRuleId"] for rule in made) == [
        rule["SecurityGroupRuleId"] for rule in ingress(ec2, group)
    ]


def test_the_same_permission_twice_in_one_call_is_refused(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    with refused("InvalidParameterValue", "must not appear multiple times"):
        ec2.authorize_security_group_ingress(
            GroupId=new_group(ec2), IpPermissions=tcp("203.0.113.7/24", "203.0.113.8/24")
        )


def test_the_quota_counts_each_family_apart(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp(*addresses(60)))
    with refused("RulesPerSecurityGroupLimitExceeded"):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("203.0.113.7/32"))
    sixes = [f"2001:db8::{index:x}/128" for index in range(60)]
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp(*sixes))
    with refused("RulesPerSecurityGroupLimitExceeded"):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("2001:db8:1::/64"))
    assert len(ingress(ec2, group)) == 120


def test_a_group_as_source_counts_in_both_families(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    group, other = new_group(ec2), new_group(ec2)
    ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[{**tcp()[0], "UserIdGroupPairs": [{"GroupId": other}]}, *tcp(*addresses(59))],
    )
    with refused("RulesPerSecurityGroupLimitExceeded"):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("203.0.113.7/32"))


def test_a_prefix_list_counts_with_its_maximum(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    prefixes = ec2.create_managed_prefix_list(PrefixListName="p", MaxEntries=55, AddressFamily="IPv4")["PrefixList"]
    source = {**tcp()[0], "PrefixListIds": [{"PrefixListId": prefixes["PrefixListId"]}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[source, *tcp(*addresses(5))])
    with refused("RulesPerSecurityGroupLimitExceeded"):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("203.0.113.7/32"))


def test_the_quota_of_an_account_is_one_number_for_ec2_and_service_quotas(aws: AwsAccount) -> None:
    ec2, quotas = aws.client("ec2"), aws.client("service-quotas")
    group = new_group(ec2)
    asked = {"ServiceCode": "vpc", "QuotaCode": "L-0EA8095F"}
    assert quotas.get_service_quota(**asked)["Quota"]["Value"] == 60
    aws.control.set_quota(3, account=aws.account)
    assert quotas.get_service_quota(**asked)["Quota"]["Value"] == 3
    with refused("RulesPerSecurityGroupLimitExceeded"):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp(*addresses(4)))
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp(*addresses(3)))


def test_revoke_by_ids_is_all_or_nothing_and_names_the_one_that_is_gone(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    made = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp(*addresses(3)))["SecurityGroupRules"]
    first, second, third = (rule["SecurityGroupRuleId"] for rule in made)
    answer = ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=[first])
    assert [rule["SecurityGroupRuleId"] for rule in answer["RevokedSecurityGroupRules"]] == [first]
    with refused("InvalidSecurityGroupRuleId.NotFound", first):
        ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=[second, first, third])
    assert len(ingress(ec2, group)) == 2
    with refused("InvalidSecurityGroupRuleId.Malformed"):
        ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=["rule-1"])


def test_revoke_of_an_unknown_permission_is_an_error_only_outside_the_default_vpc(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    lenient = new_group(ec2)
    ec2.authorize_security_group_ingress(GroupId=lenient, IpPermissions=tcp("203.0.113.7/32"))
    answer = ec2.revoke_security_group_ingress(GroupId=lenient, IpPermissions=tcp("203.0.113.7/32", "203.0.113.8/32"))
    assert [each["IpRanges"] for each in answer["UnknownIpPermissions"]] == [[{"CidrIp": "203.0.113.8/32"}]]
    assert ingress(ec2, lenient) == []
    strict = new_group(ec2, VpcId=ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"])
    ec2.authorize_security_group_ingress(GroupId=strict, IpPermissions=tcp("203.0.113.7/32"))
    with refused("InvalidPermission.NotFound"):
        ec2.revoke_security_group_ingress(GroupId=strict, IpPermissions=tcp("203.0.113.7/32", "203.0.113.8/32"))
    assert cidrs(ec2, strict) == {"203.0.113.7/32"}


def test_descriptions_change_by_id_all_or_nothing(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    permissions = tcp(*addresses(2), description="before")
    made = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permissions)["SecurityGroupRules"]
    one, two = (rule["SecurityGroupRuleId"] for rule in made)

    def update(*changes: tuple[str, str]) -> None:
        ec2.update_security_group_rule_descriptions_ingress(
            GroupId=group,
            SecurityGroupRuleDescriptions=[
                {"SecurityGroupRuleId": which, "Description": text} for which, text in changes
            ],
        )

    update((one, "after"))
    assert {rule["SecurityGroupRuleId"]: rule["Description"] for rule in ingress(ec2, group)} == {
        one: "after",
        two: "before",
    }
    with refused("InvalidSecurityGroupRuleId.NotFound"):
        update((two, "never"), ("sgr-0123456789abcdef0", "never"))
    with refused("InvalidParameterValue", "Invalid rule description"):
        update((two, "never?"))
    assert "never" not in {rule["Description"] for rule in ingress(ec2, group)}


def test_reads_come_in_pages_filtered_by_group_and_tag(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    group, other = new_group(ec2), new_group(ec2)
    for each, owner in ((group, "a"), (other, "b")):
        ec2.authorize_security_group_ingress(
            GroupId=each, IpPermissions=tcp(*addresses(23)), TagSpecifications=owner_tag(owner)
        )
    pages = ec2.get_paginator("describe_security_group_rules").paginate(
        Filters=[{"Name": "group-id", "Values": [group]}], PaginationConfig={"PageSize": 5}
    )
    sizes = [len(page["SecurityGroupRules"]) for page in pages]
    assert sizes == [5, 5, 5, 5, 4]  # 23 and the group's egress rule
    tagged = ec2.describe_security_group_rules(Filters=[{"Name": "tag:gatepass.dev/owner", "Values": ["b*"]}])
    assert {rule["GroupId"] for rule in tagged["SecurityGroupRules"]} == {other}
    assert len(tagged["SecurityGroupRules"]) == 23
    with refused("InvalidParameterValue"):
        ec2.describe_security_group_rules(MaxResults=1001)
    with refused("InvalidParameterValue", "ip-permission.cidr"):
        ec2.describe_security_group_rules(Filters=[{"Name": "ip-permission.cidr", "Values": ["x"]}])


def test_a_dry_run_changes_nothing(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    with refused("DryRunOperation"):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("203.0.113.7/32"), DryRun=True)
    assert ingress(ec2, group) == []


def test_a_group_that_is_not_there_is_named(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    missing = "sg-0123456789abcdef0"
    with refused("InvalidGroup.NotFound", missing):
        ec2.authorize_security_group_ingress(GroupId=missing, IpPermissions=tcp("203.0.113.7/32"))
    with refused("InvalidGroupId.Malformed", "sg-nope"):
        ec2.authorize_security_group_ingress(GroupId="sg-nope", IpPermissions=tcp("203.0.113.7/32"))


def test_rules_put_and_seen_by_other_actions_are_the_same_rules(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    made = ec2.authorize_security_group_ingress(
        GroupId=group, IpPermissions=tcp("203.0.113.7/32"), TagSpecifications=owner_tag("a")
    )["SecurityGroupRules"]
    (seen,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    assert seen["IpPermissions"][0]["IpRanges"] == [{"CidrIp": "203.0.113.7/32"}]
    ec2.create_tags(Resources=[made[0]["SecurityGroupRuleId"]], Tags=[{"Key": "gatepass.dev/owner", "Value": "b"}])
    assert ingress(ec2, group)[0]["Tags"] == [{"Key": "gatepass.dev/owner", "Value": "b"}]
    ec2.delete_tags(Resources=[made[0]["SecurityGroupRuleId"]], Tags=[{"Key": "gatepass.dev/owner"}])
    assert ingress(ec2, group)[0]["Tags"] == []
