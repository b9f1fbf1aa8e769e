"""Makes a failing script small: leaves steps out as long as the same law is broken."""

from collections.abc import Callable
from dataclasses import replace

from tests.simulation.script import Script, Step

_MOST_RUNS = 400


def shrink(script: Script, still_fails: Callable[[Script], float | None]) -> Script:
    """The smallest script found, by delta debugging.

    `still_fails` runs a script and answers when it broke the law, or None. What comes after that is left out first.
    """
    runs = 0

    def attempt(steps: tuple[Step, ...]) -> bool:
        nonlocal best, runs
        runs += 1
        candidate = replace(best, steps=steps)
        at = still_fails(candidate)
        if at is None:
            return False
        best = replace(candidate, steps=tuple(step for step in steps if step.at <= at))
        return True

    best = script
    if not attempt(script.steps):
        return script
    size = max(len(best.steps) // 2, 1)
    while runs < _MOST_RUNS:
        smaller = False
        start = 0
        while start < len(best.steps) and runs < _MOST_RUNS:
            if attempt(best.steps[:start] + best.steps[start + size :]):
                smaller = True
            else:
                start += size
        if size == 1 and not smaller:
            break
        size = max(size // 2, 1)
    return best
