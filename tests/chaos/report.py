"""What `make chaos` prints: one line for each round, and the figures of all. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.chaos.run import Outcome


@dataclass(frozen=True)
class Report:
    """The same as text and as figures, and what is wrong with the run as a whole: nothing, if it has passed."""

    text: str
    figures: dict[str, Any]
    wrong: list[str]


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
    patient = [outcome for outcome in outcomes if outcome.round.patient]  # the others did not wait for final phases
    kinds = sum((outcome.kinds for outcome in outcomes), Counter[str]())
    met = {outcome.round.profile: dict(outcome.met) for outcome in outcomes if outcome.met}
    figures = {
        "seed": outcomes[0].round.seed if outcomes else "",
        "sessions": sum(outcome.created for outcome in outcomes),
        "kinds": dict(kinds),
        "blows": blows,
        "met": met,
        "breaches": [str(breach) for outcome in outcomes for breach in outcome.breaches],
        "faults": [fault for outcome in outcomes for fault in outcome.faults],
        "wrong_phases": [told for outcome in patient for told in outcome.summary.get("wrong_phases", ())],
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
        *(f"{name + ' struck calls':32}{', '.join(f'{n} {kind}' for kind, n in m.items())}" for name, m in met.items()),
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
    wrong = [*_broken(figures, summary), *_missing(outcomes, figures)]
    lines += ["", *(f"WRONG: {each}" for each in wrong)] if wrong else ["", "passed"]
    return Report("\n".join(lines), {**figures, "wrong": wrong}, wrong)


def _broken(figures: dict[str, Any], summary: dict[str, Any]) -> Iterator[str]:
    """What must not be. The observer's own count is of the whole run, what lies between two rounds included."""
    counts = {
        "breaches": max(summary["breaches"], len(figures["breaches"])),
        "rules left": len(summary["rules_left"]),
        "foreign rules touched": summary["foreign_rules_touched"],
        "sessions in the wrong phase": len({*figures["wrong_phases"], *summary["wrong_phases"]}),
        "faults": len(figures["faults"]),
    }
    return (f"{count} {what}" for what, count in counts.items() if count)


def _missing(outcomes: Sequence[Outcome], figures: dict[str, Any]) -> Iterator[str]:
    """What was asked for and has not happened."""
    blows = sum((Counter(outcome.round.blows) for outcome in outcomes), Counter[str]())
    asked = {"sessions": sum(outcome.round.sessions for outcome in outcomes), **blows}
    happened = {"sessions": figures["sessions"], **figures["blows"]}
    for what, count in asked.items():
        if happened.get(what, 0) < count:
            yield f"{happened.get(what, 0)} of {count} {what}"
    for outcome in outcomes:
        yield from (f"no call met {kind} of {outcome.round.profile}" for kind, n in outcome.met.items() if not n)
    if blows["api-server"] and not figures["watches_gone"]:
        yield "no watch got 410 Gone"
    if blows["api-server"] and not figures["watches_begun_anew"]:
        yield "no watch of the operator was begun at a listing, as after 410 Gone"


def _shares(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f} s" for name, value in figures.items())
