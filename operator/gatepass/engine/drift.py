"""What somebody else did to our rules, and a pass has put right."""

from collections import Counter
from collections.abc import Mapping, Set
from typing import Final

from gatepass.core.plan import Plan
from gatepass.core.rules import ObservedRule

REPAIRS: Final = ("put_back", "removed", "marked")
"""A rule that was taken away is there again, one of ours that nobody wants is gone, marks are as they were."""


def repairs(
    before: Mapping[str, ObservedRule], plan: Plan, after: Mapping[str, ObservedRule], unseen: Set[str]
) -> Counter[str]:
    """What a pass that began with a read has repaired: `before` was known until then, `after` is what is there now.

    Labels of rules that the read has not shown, the `unseen`, were set as a proof, and not because they were others.
    """
    had = {rule.rule: id_ for id_, rule in before.items()}
    has = {rule.rule: id_ for id_, rule in after.items()}
    missed = [want.rule for want in plan.grants if want.rule in had]
    return Counter(
        put_back=sum(has.get(rule, had[rule]) != had[rule] for rule in missed),
        removed=sum(id_ not in before and id_ not in after for id_ in plan.revokes),
        marked=sum(id_ in before and before[id_] == after.get(id_) for id_ in {*plan.retags, *plan.relabels} - unseen),
    )
