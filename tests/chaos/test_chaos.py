"""A short round of what `make chaos` does at length; a failure says how to have the same script again."""

import os
import random
import sys
from collections import Counter

import pytest

from gatepass.kube.listing import BEGUN_ANEW
from gatepass.sandbox.environment import Sandbox
from tests.chaos import nemesis, script
from tests.chaos.report import table
from tests.chaos.run import Round, play
from tests.chaos.stage import Stage

SEED = os.environ.get("GATEPASS_CHAOS_SEED", "4")
"""Always the same script here; `make chaos` draws new ones."""
KINDS = {
    "cidrs",
    "over IPv6",
    "pod",
    "claim",
    "operator",
    "unclaimed",
    "with its pod",
    "with its job",
    "with its heart",
}
BLOWS = {"kill": 2, "api-server": 1, "etcd": 1, "no-api-server": 1, "no-lease": 0, "no-ec2": 1, "frozen": 1}


def test_the_promise_holds_under_fire(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = Round(seed=SEED, sessions=24, per_second=3.0, blows=BLOWS, patient=False)
    with capsys.disabled():
        sys.stdout.write(f"\nchaos: python -m tests.chaos {wanted}\n")
    with Stage(sandbox) as stage:
        outcome = play(stage, wanted)
        summary = stage.observer.summary()
        begun_anew = sandbox.operator_log.read_text().count(BEGUN_ANEW)
        stage.admits()
    assert not outcome.faults, f"seed {SEED}:\n" + "\n".join(f"  {fault}" for fault in outcome.faults)
    assert table([outcome], summary, begun_anew).wrong == []
    assert set(outcome.kinds) == KINDS
    assert summary["closed"] > 0


def test_a_seed_draws_the_same_script_again() -> None:
    ways = [script.Way("node-1", "10.9.0.4", "10.244.0.7", ("203.0.113.9",))]

    def drawn(seed: int) -> tuple[script.Script, list[nemesis.Blow]]:
        lot = random.Random(seed)
        names = (f"it-{number}" for number in range(1000))
        return script.drawn(lot, 200, 4.0, names, ["db", "cache"], ways), nemesis.drawn(lot, BLOWS, 60.0)

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert first == again != other
    deeds = Counter(deed.what for deed in (*first[0].tenants, *first[0].runners))
    assert deeds["create"] == 200
    assert set(deeds) == {"create", "edit", "delete", "pod", "job", "claim", "beat", "silence", "end"}
    assert min(deeds.values()) > 5, deeds
    assert set(first[0].kinds) == KINDS
