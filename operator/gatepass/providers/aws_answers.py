"""What of AWS's answers helps whoever reads the log."""

from botocore.exceptions import ClientError


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
