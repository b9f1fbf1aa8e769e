"""`python -m bench`: take the figures, print a table, write bench/results.json. 1 is the exit code for a missed bar."""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

from bench.figures import conclude
from bench.report import as_json, figures, tell_bursts
from bench.rounds import Size, floors, gatepass

RESULTS = Path(__file__).with_name("results.json")


def main() -> int:
    """Parse the arguments and run; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="floors and Gatepass in turn, so often (default: 3)")
    parser.add_argument("--no-steady", action="store_true", help="leave out the steady state, which takes a minute")
    given = parser.parse_args()
    console, size = Console(), Size()
    rounds = []
    for number in range(1, given.rounds + 1):
        last = number == given.rounds
        with console.status(f"round {number} of {given.rounds}: the floors"):
            bare = floors(size)
        with console.status(f"round {number} of {given.rounds}: Gatepass"):
            rounds.append((bare, gatepass(size, steady=last and not given.no_steady)))
    found = figures(rounds)
    RESULTS.write_text(json.dumps(as_json(found, rounds, size), indent=1) + "\n")
    broken = [breach for _, each in rounds for breach in each.breaches]
    missed = conclude(f"Gatepass, {len(rounds)} round(s)", found, broken, console)
    tell_bursts(rounds, console)
    console.print(f"details: {RESULTS}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
