"""The laws see: each way of breaking the product on purpose is reported, and what is whole is not."""

import pytest

from tests.simulation.broken import SABOTAGE
from tests.simulation.script import Script, Step, write_script
from tests.simulation.world import run


@pytest.mark.parametrize("name", SABOTAGE)
def test_a_broken_product_is_seen(name: str) -> None:
    outcomes = (run(write_script(seed, 2.0), sabotage=name) for seed in range(10))
    law = next(outcome.law for outcome in outcomes if outcome.law is not None)
    assert law in SABOTAGE[name][1]


SESSION = {"resources": [{"name": "db"}], "source": {"cidrs": ["203.0.113.7/32"]}, "duration": "10m"}
RESOURCE = {
    "aws": {"region": "eu-central-1", "securityGroups": ["sg-0aaa"]},
    "ports": [{"port": 5432}],
    "staticCIDRs": [{"cidr": "192.0.2.0/28"}],
}
OPENED = (
    Step(1.0, "create-resource", {"namespace": "ci", "name": "db", "spec": RESOURCE, "held": True}),
    Step(5.0, "create-session", {"name": "it-1", "spec": SESSION, "held": True}),
)


def test_a_quiet_run_breaks_no_law() -> None:
    outcome = run(Script(0, 1800.0, OPENED))
    assert outcome.breach is None
    assert (outcome.calls["grant"], outcome.calls["revoke"]) == (2, 2)


def test_an_end_that_had_come_before_more_time_was_given_has_its_cause() -> None:
    """It has closed, and could not be written down in time."""
    steps = (
        *OPENED,
        Step(590.0, "fault", {"mode": "api-down", "seconds": 300.0}),
        Step(700.0, "edit-session", {"name": "it-1", "spec": {"duration": "1h"}}),
    )
    outcome = run(Script(0, 1800.0, steps))
    assert outcome.breach is None
    assert outcome.calls["revoke"] > 0


def test_the_time_of_a_session_whose_resource_is_not_there_is_up_too() -> None:
    steps = (OPENED[1], Step(10.0, "not-after", {"name": "it-1", "in": 60}))
    assert run(Script(0, 300.0, steps)).breach is None


def test_a_ceiling_that_nobody_could_hear_of_binds_nobody() -> None:
    """While a watch is broken, an edit is not heard of until the next listing."""
    other = {**SESSION, "source": {"cidrs": ["203.0.113.8/32"]}}
    steps = (
        *OPENED,
        Step(20.0, "break-watch", {"plural": "protectedresources", "seconds": 550.0}),
        Step(
            30.0, "edit-resource", {"namespace": "ci", "name": "db", "spec": {"policy": {"maxConcurrentSessions": 1}}}
        ),
        Step(500.0, "create-session", {"name": "it-2", "spec": other, "held": True}),
    )
    assert run(Script(0, 590.0, steps)).breach is None
