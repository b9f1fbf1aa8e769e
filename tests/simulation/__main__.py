"""`python -m tests.simulation`: run seeds, replay one, shrink what fails. `make simulate SEEDS=2000`.

Runs are made in processes of their own with PYTHONHASHSEED=0: the order of a set of texts differs otherwise from one
process to the next, and a seed has to replay to the same step.
"""

import argparse
import os
import sys
from pathlib import Path

from tests.simulation.broken import SABOTAGE
from tests.simulation.runs import HOURS, replay, sweep


def main() -> int:
    """0 when no law was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__, allow_abbrev=False)
    parser.add_argument("--seeds", default="100", help="how many, or FIRST-LAST")
    parser.add_argument("--hours", type=float, default=HOURS, help="virtual hours of churn in each run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--replay", help="a seed, or a file that --shrink has kept: print what happened")
    parser.add_argument("--shrink", metavar="FILE", type=Path, help="with --replay: keep the smallest script here")
    parser.add_argument("--break", dest="sabotage", choices=SABOTAGE, help="with --replay: the product broken so")
    parser.add_argument("--lines", type=int, default=200, help="of the trace")
    parser.add_argument("--stop-after", type=int, default=5, help="failures")
    given = parser.parse_args()
    if given.replay is not None:
        return replay(given.replay, given.hours, given.lines, given.shrink, given.sabotage)
    first, _, last = given.seeds.partition("-")
    seeds = range(int(first), int(last) + 1) if last else range(int(first))
    return sweep(seeds, given.hours, given.jobs, given.stop_after)


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})
    sys.exit(main())
