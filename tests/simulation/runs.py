"""Many seeds at once, and one again."""

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from tests.simulation.script import Script, write_script
from tests.simulation.shrink import shrink
from tests.simulation.world import Outcome, run

HOURS: Final = 1.5
"""Of users at work, in each run of `make test` and `make simulate`."""


def sweep(seeds: range, hours: float, jobs: int, stop_after: int, tolerated: frozenset[str]) -> int:
    """Run many seeds, and print a line for each that fails."""
    began, failed, turns, virtual = time.monotonic(), 0, 0, 0.0
    work = [(seed, hours, tolerated) for seed in seeds]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for (seed, *_), outcome in zip(work, pool.map(_run, work, chunksize=2), strict=True):
            turns += outcome.turns
            virtual += outcome.seconds
            if outcome.breach is not None:
                failed += 1
                print(f"seed {seed}: {outcome.breach}")
                print(f"  replay: python -m tests.simulation --replay {seed} --hours {hours:g}")
                if failed >= stop_after:
                    pool.shutdown(cancel_futures=True)
                    break
    took = time.monotonic() - began
    print(f"{len(work)} seeds, {failed} failed, {virtual / 86400:.1f} virtual days, {turns} turns, in {took:.0f} s")
    return 1 if failed else 0


def _run(work: tuple[int, float, frozenset[str]]) -> Outcome:
    seed, hours, tolerated = work
    return run(write_script(seed, hours), tolerated=tolerated)


def replay(
    which: str, hours: float, lines: int, keep: Path | None, tolerated: frozenset[str], sabotage: str | None
) -> int:
    """Run one again, with its trace, and shrink it when asked."""
    script = write_script(int(which), hours) if which.isdigit() else Script.load(Path(which))

    def again(candidate: Script, *, trace: bool = False) -> Outcome:
        return run(candidate, tolerated=tolerated, trace=trace, sabotage=sabotage)

    outcome = again(script)
    if outcome.breach is None:
        print("no law was broken")
        return 0
    if keep is not None:
        law = outcome.law

        def still_fails(candidate: Script) -> float | None:
            found = again(candidate)
            return found.seconds if found.law == law else None

        script = shrink(script, still_fails)
        outcome = again(script)
        script.save(keep, breach=outcome.breach)
    print(*again(script, trace=True).trace[-lines:], sep="\n")
    print("\nsteps:", *(f"  {step}" for step in script.steps[-60:]), sep="\n")
    print(f"\n{outcome.breach}")
    return 1
