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


def test_a_quiet_run_breaks_no_law() -> None:
    spec = {
        "aws": {"region": "eu-central-1", "securityGroups": ["sg-0aaa"]},
        "ports": [{"port": 5432}],
        "staticCIDRs": [{"cidr": "192.0.2.0/28"}],
    }
    session = {"resources": [{"name": "db"}], "source": {"cidrs": ["203.0.113.7/32"]}, "duration": "10m"}
    steps = (
        Step(1.0, "create-resource", {"namespace": "ci", "name": "db", "spec": spec, "held": True}),
        Step(5.0, "create-session", {"name": "it-1", "spec": session, "held": True}),
    )
    outcome = run(Script(0, 1800.0, steps))
    assert outcome.breach is None
    assert (outcome.calls["grant"], outcome.calls["revoke"]) == (2, 2)
