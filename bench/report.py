"""Figures from rounds: a table for people, JSON for machines."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from bench.figures import Figure, percentile
from bench.load import lasted
from bench.observed import BROKEN
from bench.rounds import Floors, Gatepass, Recorded, Size

Round = tuple[Floors, Gatepass]


def figures(rounds: Sequence[Round]) -> list[Figure]:
    """All figures: medians over the rounds for what takes time, the worst round for what is counted."""

    def time_(name: str, of: Callable[[Round], float], floor: Callable[[Round], float], bar: float | None) -> Figure:
        ratio = statistics.median(of(each) / floor(each) for each in rounds)
        return Figure(name, _ms(map(of, rounds)), "ms", _ms(map(floor, rounds)), round(ratio, 2), bar)

    def told(name: str, of: Callable[[Round], float]) -> Figure:
        return Figure(name, _ms(map(of, rounds)), "ms")

    def count(name: str, of: Callable[[Gatepass], float], bar: float | None, unit: str = "") -> Figure:
        return Figure(name, max(of(gatepass) for _, gatepass in rounds), unit, bar=bar)

    found = [
        time_("one session: create to Ready, p50", lambda r: _ready(r[1].alone, 50), lambda r: _bare(r[1], 50), 1.3),
        time_("one session: create to Ready, p99", lambda r: _ready(r[1].alone, 99), lambda r: _bare(r[1], 99), None),
        told("one session: create to rule at EC2, p50", lambda r: percentile(r[1].alone.to_rule, 50)),
        told("one session: create to rule at EC2, p99", lambda r: percentile(r[1].alone.to_rule, 99)),
        told("floor of one session: the create, p50", lambda r: _step(r[1], "create")),
        told("floor of one session: the Authorize by boto3, p50", lambda r: _step(r[1], "authorize")),
        told("floor of one session: the status write, p50", lambda r: _step(r[1], "status")),
        count("one session: writes to it until Ready", lambda g: g.alone.summary["writes_per_session_until_ready"], 1),
        time_("burst: first create to last Ready", lambda r: lasted(r[1].burst.openings), _floor_burst, 1.5),
        time_("burst: create to Ready, p50", lambda r: _ready(r[1].burst, 50), lambda r: _floor_ready(r[0], 50), None),
        time_("burst: create to Ready, p99", lambda r: _ready(r[1].burst, 99), lambda r: _floor_ready(r[0], 99), None),
        told("burst: create to rule at EC2, p50", lambda r: percentile(r[1].burst.to_rule, 50)),
        told("burst: create to rule at EC2, p99", lambda r: percentile(r[1].burst.to_rule, 99)),
        told("burst: its EC2 calls made by bare boto3, one by one", lambda r: r[1].replayed),
        count("burst: mutating EC2 calls", lambda g: g.burst.summary["ec2_mutating"], 60),
        count("burst: EC2 calls throttled", lambda g: g.burst.summary["ec2_throttled"], None),
        count(
            "burst: mutating EC2 calls throttled", lambda g: g.burst.summary["ec2_mutating_throttled_percent"], 1, "%"
        ),
        count("burst: writes to a session until Ready", lambda g: g.burst.summary["writes_per_session_until_ready"], 1),
        count(BROKEN, lambda g: len(g.breaches), 0),
    ]
    steady = [gatepass.steady for _, gatepass in rounds if gatepass.steady is not None]
    if steady:
        found += [
            Figure("steady state: EC2 calls", max(each.ec2_calls for each in steady), "", bar=0),
            Figure("steady state: writes to the API server", max(each.api_writes for each in steady), "", bar=0),
        ]
    return found


def tell_bursts(rounds: Sequence[Round], console: Console) -> None:
    """What the bursts cost."""
    for number, (_, gatepass) in enumerate(rounds, start=1):
        burst = gatepass.burst.summary
        console.print(f"burst of round {number}: EC2 {_told(burst['ec2'])}; API server {_told(burst['api_writes'])}")


def as_json(found: Sequence[Figure], rounds: Sequence[Round], size: Size) -> dict[str, Any]:
    """Everything a machine may want; times in seconds in the rounds, in the figures as each says."""
    return {
        "size": asdict(size),
        "figures": [{**asdict(each), "passed": each.passed} for each in found],
        "rounds": [
            {
                "floor": {
                    "alone": [asdict(steps) for steps in gatepass.bare],
                    "burst": {"seconds": lasted(floors.burst), "openings": [each.seconds for each in floors.burst]},
                },
                "alone": {
                    **gatepass.alone.summary,
                    "openings": [each.seconds for each in gatepass.alone.openings],
                    "to_rule": gatepass.alone.to_rule,
                },
                "burst": {
                    **gatepass.burst.summary,
                    "seconds": lasted(gatepass.burst.openings),
                    "openings": [each.seconds for each in gatepass.burst.openings],
                    "to_rule": gatepass.burst.to_rule,
                    "replayed": gatepass.replayed,
                },
                "steady": gatepass.steady and asdict(gatepass.steady),
                "breaches": gatepass.breaches,
            }
            for floors, gatepass in rounds
        ],
    }


def _ms(seconds: Iterable[float]) -> float:
    return round(statistics.median(seconds) * 1000, 1)


def _ready(recorded: Recorded, percent: int) -> float:
    return percentile([each.seconds for each in recorded.openings], percent)


def _bare(gatepass: Gatepass, percent: int) -> float:
    return percentile([each.seconds for each in gatepass.bare], percent)


def _step(gatepass: Gatepass, step: str) -> float:
    return percentile([float(getattr(each, step)) for each in gatepass.bare], 50)


def _floor_ready(floors: Floors, percent: int) -> float:
    return percentile([each.seconds for each in floors.burst], percent)


def _floor_burst(each: Round) -> float:
    return lasted(each[0].burst)


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items()) or "none"
