"""What `make chaos` prints: one line for each round, and the figures of all. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.chaos.run import Outcome


@dataclass(frozen=True)
class Report:
    """The same as text and as figures."""

    text: str
    figures: dict[str, Any]


def line(outcome: Outcome) -> str:
    """One round."""
    blows = ", ".join(f"{count} {what}" for what, count in outcome.struck.items())
    times = f"{outcome.seconds:9.0f}{outcome.settled:9.0f}"
    return f"{outcome.round.profile:12}{outcome.created:9}{times}{len(outcome.faults):8}  {blows}"


def table(outcomes: Sequence[Outcome], summary: dict[str, Any], begun_anew: int) -> Report:
    """Put the report together; `summary` is the observer's at the end of everything.

    `begun_anew` is how many watches of the operator the API server has told that they are too far behind.
    """
    lines = [f"{'profile':12}{'sessions':>9}{'seconds':>9}{'settled':>9}{'faults':>8}  blows"]
    lines += [line(outcome) for outcome in outcomes]
    blows: dict[str, int] = {}
    for outcome in outcomes:
        for what, count in outcome.struck.items():
            blows[what] = blows.get(what, 0) + count
    kinds = sum((outcome.kinds for outcome in outcomes), Counter[str]())
    figures = {
        "seed": outcomes[0].round.seed if outcomes else "",
        "sessions": sum(outcome.created for outcome in outcomes),
        "kinds": dict(kinds),
        "blows": blows,
        "breaches": [str(breach) for outcome in outcomes for breach in outcome.breaches],
        "faults": [fault for outcome in outcomes for fault in outcome.faults],
        "wrong_phases": [told for outcome in outcomes for told in outcome.summary.get("wrong_phases", ())],
        **{name: summary[name] for name in ("foreign_rules_touched", "rules_left", "closed")},
        "lateness": summary["lateness"],
        "lateness_by_clock": summary["lateness_by_clock"],
        "watches_gone": summary["watches_gone"],
        "watches_begun_anew": begun_anew,
    }
    lines += [
        "",
        f"sessions                        {figures['sessions']}",
        *(f"  {kind:30}{count}" for kind, count in sorted(kinds.items())),
        *(f"{what:32}{count}" for what, count in blows.items()),
        f"watches that got 410 Gone       {figures['watches_gone']} (the observer's own)",
        f"watches begun at a listing      {begun_anew} (the operator's, beside those of its starts)",
        f"rules closed                    {figures['closed']}",
        f"lateness, operator and EC2 up   {_shares(summary['lateness'])}",
        f"lateness by the clock           {_shares(summary['lateness_by_clock'])}",
        f"breaches                        {len(figures['breaches'])}",
        f"rules left                      {len(figures['rules_left'])}",
        f"foreign rules touched           {figures['foreign_rules_touched']}",
        f"sessions in the wrong phase     {len(figures['wrong_phases'])}",
        f"faults in all                   {len(figures['faults'])}",
    ]
    return Report("\n".join(lines), figures)


def _shares(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f} s" for name, value in figures.items())
