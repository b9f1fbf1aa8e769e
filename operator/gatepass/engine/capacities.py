"""How full the targets of a resource are."""

from gatepass.core.placement import FAMILIES
from gatepass.core.resource_status import capacity_of
from gatepass.core.types.resource import Capacity
from gatepass.engine.state import Standing, State


def capacity(state: State, standing: Standing) -> Capacity | None:
    """Of those that can be used and have been read, together; None while there are none."""
    known = [(target, state.target(target)) for target in standing.usable()]
    read = [(target, each) for target, each in known if each.read_at is not None]
    if not read:
        return None
    return capacity_of(
        {
            family: (
                sum(each.used(family) for _, each in read),
                sum(each.limit(family, standing.quota(target)) for target, each in read),
                sum(
                    state.is_ours(rule) and rule.weight[FAMILIES.index(family)] > 0
                    for _, each in read
                    for rule in each.rules.values()
                ),
            )
            for family in FAMILIES
        }
    )
