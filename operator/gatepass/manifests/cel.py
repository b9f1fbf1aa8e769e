"""The CEL expressions that the admission policies share, and the small parts a policy is made of.

In the rules of a CRD the reserved word `namespace` is escaped to `__namespace__`; in a policy objects are untyped, and
`r.namespace` and `r.?namespace` work as they stand.
"""

from textwrap import dedent
from typing import Any, Final

from gatepass.core.types.common import REQUESTED_BY

# Who asks, as JSON: what the operator reads back as the requester.
REQUESTER: Final = dedent("""\
    '{"username":' + strings.quote(request.userInfo.username) +
    ',"uid":' + strings.quote(request.userInfo.?uid.orValue('')) +
    ',"groups":[' + request.userInfo.?groups.orValue([]).map(g, strings.quote(g)).join(',') + ']}'""")

STAMP: Final = f"object.metadata.?annotations[?'{REQUESTED_BY}'].orValue('')"
STAMP_BEFORE: Final = f"oldObject == null ? '' : oldObject.metadata.?annotations[?'{REQUESTED_BY}'].orValue('')"

# Everything else that an update may do has to pass, or a bound that was tightened would stand in the way of `stop: true`.
OPENS_OR_LENGTHENS: Final = dedent("""\
    oldObject == null || duration(object.spec.duration) > duration(oldObject.spec.duration) ||
    (has(oldObject.spec.notAfter) && (!has(object.spec.notAfter) ||
    timestamp(object.spec.notAfter) > timestamp(oldObject.spec.notAfter)))""")


def variable(name: str, expression: str) -> dict[str, str]:
    """A variable of a policy, computed when it is first used."""
    return {"name": name, "expression": expression}


def condition(name: str, expression: str) -> dict[str, str]:
    """What must hold for a policy to look at the request at all."""
    return {"name": name, "expression": expression}


def validation(expression: str, message: str, *, forbidden: bool = False) -> dict[str, str]:
    """A rule and the CEL expression of its message; `forbidden` answers 403, as RBAC does, instead of 422."""
    return {
        "expression": expression,
        "messageExpression": message,
        "reason": "Forbidden" if forbidden else "Invalid",
    }


def matching(operations: tuple[str, ...], resources: tuple[str, ...]) -> dict[str, Any]:
    """`matchConstraints` for kinds of ours."""
    rule = {
        "apiGroups": ["gatepass.dev"],
        "apiVersions": ["*"],
        "operations": list(operations),
        "resources": list(resources),
    }
    return {"resourceRules": [rule]}
