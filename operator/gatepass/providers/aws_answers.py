"""What AWS's answers tell: whoever reads the log, and who asks for rules."""

from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import DescribeSecurityGroupRulesResultTypeDef, SecurityGroupRuleTypeDef


def request_id(answer: object) -> str | None:
    """AWS's own name of a request, by which CloudTrail and AWS's support find it; from an answer or an exception."""
    told = answer.response if isinstance(answer, ClientError) else answer
    found = told.get("ResponseMetadata", {}).get("RequestId") if isinstance(told, dict) else None
    return None if found is None else str(found)


def rule_ids(answer: object) -> list[str]:
    """The rules that a call has made or removed."""
    told = answer if isinstance(answer, dict) else {}
    changed = [*told.get("SecurityGroupRules", ()), *told.get("RevokedSecurityGroupRules", ())]
    return [rule["SecurityGroupRuleId"] for rule in changed]


def inbound(page: "DescribeSecurityGroupRulesResultTypeDef") -> "list[SecurityGroupRuleTypeDef]":
    """The inbound rules of one answer."""
    return [rule for rule in page["SecurityGroupRules"] if not rule.get("IsEgress")]
