"""One round of chaos under one profile of EC2's faults, and what came of it."""

import itertools
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gatepass.core.types.session import AccessSessionStatus
from gatepass.sandbox.ec2.faults import Fault
from gatepass.sandbox.ec2.profiles import profile
from gatepass.sandbox.kubeapi import KubeApi
from tests.chaos import nemesis, script
from tests.chaos.churn import Churn
from tests.chaos.runners import Runners
from tests.chaos.stage import FOREIGN, Stage
from tests.e2e.pods import Pods
from tests.e2e.tenant import API, RESOURCE, SESSION, Tenant, delete_all
from tests.observer.judge import Breach
from tests.shape.conditions import assert_session_conditions

LAG_SECONDS = 60.0
SETTLE_SECONDS = 300.0
_ROUND_SECONDS_PER_SESSION = 3.0
_RUNNERS = ("/api/v1/namespaces/{}/pods", "/apis/batch/v1/namespaces/{}/jobs")
_AT_ONCE = "gracePeriodSeconds=0&propagationPolicy=Background"
_VANISHES = 1 / 3


@dataclass(frozen=True)
class Round:
    """What is asked for; the same seed draws the same script of deeds and blows.

    `patient`: also wait for the final phase of each session. After a kill that may take two minutes, as long as EC2's
    reads may lag: what a grant came to whose answer nobody has heard is not known earlier.
    """

    seed: str
    profile: str = "none"
    sessions: int = 200
    per_second: float = 4.0
    blows: Mapping[str, int] = field(default_factory=dict)
    patient: bool = True

    def __str__(self) -> str:
        blows = " ".join(f"--{what} {count}" for what, count in self.blows.items())
        pace = f"--sessions {self.sessions} --per-second {self.per_second:g}"
        return f"--seed {self.seed} --profiles {self.profile} {pace} {blows}"


@dataclass
class Outcome:
    """What came of it. `kinds` is as in `Script`; `faults` says everything that is wrong, one line each.

    `met` counts the calls to AWS that each kind of fault of the profile has struck.
    After the last deed and blow it took `settled` seconds until every session was over.
    """

    round: Round
    created: int
    kinds: Counter[str]
    struck: Mapping[str, int]
    seconds: float
    settled: float
    breaches: list[Breach]
    summary: dict[str, Any]
    faults: list[str]
    met: Counter[str] = field(default_factory=Counter)


def play(stage: Stage, wanted: Round) -> Outcome:
    """Play one round; bounded in time."""
    lot = random.Random(f"{wanted.seed}/{wanted.profile}")
    began = time.monotonic()
    length = wanted.sessions / wanted.per_second + 8.0
    latest = began + 240.0 + length + _ROUND_SECONDS_PER_SESSION * wanted.sessions
    groups = stage.groups(5)
    resources = {
        "db": groups[:1],
        "cache": groups[1:2],
        "spread": groups[2:4],
        "also-db": groups[:1],
        "gone": groups[4:],
    }
    namespace = f"chaos-{wanted.profile}-{lot.randrange(10**6)}".replace(",", "-")
    names = (f"it-{number}" for number in itertools.count(1))
    stage.observer.read_lag(LAG_SECONDS if "lag" in wanted.profile else 0.0)
    stage.sandbox.ec2.set_faults(*_aimed(profile(wanted.profile), groups[4]), seed=lot.randrange(2**32))
    with stage.tenant(namespace, resources) as api:
        pods = Pods(Tenant(api, namespace))
        drawn = script.drawn(lot, wanted.sessions, wanted.per_second, names, list(resources), stage.ways(pods))
        blows = nemesis.drawn(lot, wanted.blows, length)

        def over() -> bool:
            return time.monotonic() > latest

        stage.observer.comes_from({f"{namespace}/{name}": ips for name, ips in drawn.origins.items()})
        tenants, blow = Churn(api, namespace, drawn.tenants, over), nemesis.Nemesis(stage, blows, over)
        runners = Runners(stage, tenants, namespace, drawn.runners, over)
        tenants.start()
        runners.start()
        blow.run()
        tenants.join()
        runners.join()
        met: Counter[str] = Counter()
        for each in stage.sandbox.ec2.faults():
            met[each["kind"]] += each["struck"]
        stage.sandbox.ec2.set_faults()
        late = ["the script was not done in time"] if over() or runners.undone else []
        ended = time.monotonic()
        faults = [*tenants.failures, *runners.failures, *late, *_settled(stage, wanted.patient)]
        settled = time.monotonic() - ended
        summary = stage.observer.summary()
        pods.leave()
    with stage.sandbox.control_plane.api() as api:  # the other one has been idle for too long
        if not wanted.patient:
            stage.release(namespace)
        faults += _cleared(api, namespace)
    breaches = stage.observer.take_breaches()
    faults += [str(breach) for breach in breaches]
    for session in stage.observer.take_statuses():
        try:
            assert_session_conditions(AccessSessionStatus.model_validate(session["status"]))
        except AssertionError as error:
            faults.append(f"{session['metadata']['name']} contradicts itself: {error}")
    for group, rules in stage.sandbox.ec2.rules(*groups).items():
        if (
            rules is not None
            and "meddling" not in wanted.profile
            and FOREIGN not in {each.get("cidrIpv4") for each in rules}
        ):
            faults.append(f"the foreign rule of {group} is gone")
    seconds = time.monotonic() - began
    return Outcome(wanted, tenants.created, drawn.kinds, blow.struck, seconds, settled, breaches, summary, faults, met)


def _cleared(api: KubeApi, namespace: str) -> list[str]:
    """Delete the round's objects, so that the next one begins with none; what does not go."""
    paths = [f"{API}/namespaces/{namespace}/{plural}" for plural in (SESSION, RESOURCE)]
    for path in paths:
        delete_all(api, path)
    for path in _RUNNERS:
        api.request("DELETE", f"{path.format(namespace)}?{_AT_ONCE}")
    deadline = time.monotonic() + SETTLE_SECONDS
    while left := [each["metadata"]["name"] for path in paths for each in api.request("GET", path)["items"]]:
        if time.monotonic() > deadline:
            return [f"not deleted: {', '.join(left)}"]
        time.sleep(0.2)
    return []


def _aimed(faults: Sequence[Fault], victim: str) -> list[Fault]:
    """One group is for being deleted, soon, as few calls are about it; the others have to last."""
    aimed = {"group": victim, "chance": _VANISHES}
    return [fault.model_copy(update=aimed) if fault.kind == "vanish" else fault for fault in faults]


def _settled(stage: Stage, patient: bool) -> list[str]:
    """Wait until every session is over and every rule is gone; what is left when that takes too long."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        stage.revive()
        found = stage.observer.summary()
        left = [*(f"left: {each}" for each in found["rules_left"]), *found["live"]]
        left += found["wrong_phases"] if patient else []
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.5)
