"""`make chaos`: every profile of faults, kills, restarts and partitions, and the report.

Exits with 1 where anything is wrong: the promise was broken, or not all that was asked for has happened.
"""

import argparse
import json
import secrets
import sys
from collections import Counter
from pathlib import Path

from gatepass.kube.listing import BEGUN_ANEW
from gatepass.sandbox.ec2.profiles import PROFILES, profile
from gatepass.sandbox.environment import Sandbox
from tests.chaos.nemesis import WAYS
from tests.chaos.report import line, table
from tests.chaos.run import Outcome, Round, play
from tests.chaos.stage import Stage

_COUNTS = {"kill": 100, "api-server": 10, "etcd": 10, "no-api-server": 20, "no-lease": 5, "no-ec2": 20, "frozen": 10}


def main() -> int:
    """Play a round under each profile, and tell what came of all of them."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seed", default=str(secrets.randbelow(2**32)), help="the same seed, the same script")
    parser.add_argument("--profiles", default=" ".join(PROFILES), help="rounds; in each, profiles with commas")
    parser.add_argument("--sessions", type=int, default=2200, help="of all rounds together")
    parser.add_argument("--per-second", type=float, default=4.0)
    parser.add_argument("--json", type=Path, help="where to write the report as JSON too")
    for what in WAYS:
        parser.add_argument(f"--{what}", type=int, default=_COUNTS[what], help="of all rounds together")
    given = parser.parse_args()
    try:
        for names in given.profiles.split():
            profile(names)
    except ValueError as error:
        parser.error(str(error))
    rounds = [
        Round(
            seed=given.seed,
            profile=name,
            sessions=-(-given.sessions // len(names)),
            per_second=given.per_second,
            blows={what: _share(getattr(given, what.replace("-", "_")), number, len(names)) for what in WAYS},
        )
        for names in [given.profiles.split()]
        for number, name in enumerate(names)
    ]
    outcomes = []
    with Sandbox(operator=False) as sandbox, Stage(sandbox) as stage:
        for each in rounds:
            _say(f"chaos: python -m tests.chaos {each}")
            try:
                outcomes.append(play(stage, each))
            except Exception as error:  # the other rounds are worth their time all the same
                outcomes.append(Outcome(each, 0, Counter(), {}, 0.0, 0.0, [], {}, [f"broken off: {error!r}"]))
                stage.restore()
            _say(f"  {line(outcomes[-1])}")
            for fault in outcomes[-1].faults:
                _say(f"  {fault}")
        summary = stage.observer.summary()
        begun_anew = sandbox.operator_log.read_text().count(BEGUN_ANEW)
        report = table(outcomes, summary, begun_anew)
        sandbox.keep_logs = bool(report.wrong)
    _say(report.text)
    if given.json:
        given.json.write_text(json.dumps(report.figures, indent=2) + "\n")
    return int(bool(report.wrong))


def _share(total: int, number: int, rounds: int) -> int:
    """What of a total falls to one round, so that all of them make the total."""
    return total * (number + 1) // rounds - total * number // rounds


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
