"""Gatepass, broken on purpose: `python -m tests.observer.broken WAY operator --kubeconfig ...`."""

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from gatepass.cli import main
from gatepass.core import lifecycle, plan
from gatepass.egress.pod import PodFinder
from gatepass.engine.calls import Calls
from gatepass.engine.sources import Sources
from gatepass.engine.vouching import Vouching
from gatepass.kube import runners
from gatepass.kube.cluster import KubeCluster

EARLY = timedelta(seconds=60)
ASTRAY = "203.0.113.66"


def revokes_foreign_rules() -> None:
    """Everything in a group is its own."""
    plan.is_ours = lambda observed, owner, known: True
    Vouching.stranger = lambda *_: False  # type: ignore[method-assign]


def never_revokes() -> None:
    """What is open stays open."""

    async def nothing(*_: Any) -> bool:
        return False

    Calls._revoke = nothing  # type: ignore[method-assign]


def revokes_early() -> None:
    """Time is up a minute before it is."""
    right = lifecycle.deadline

    def early(*given: Any) -> Any:
        until, reason = right(*given)
        return until - EARLY, reason

    lifecycle.deadline = early


def opens_without_use() -> None:
    """Everybody may use everything."""

    async def yes(*_: Any) -> bool:
        return True

    KubeCluster.may_use = yes  # type: ignore[method-assign]


def ignores_stop() -> None:
    """A session ends when its time is up, whatever its owner says."""
    right = lifecycle.end

    def deaf(session: Any, *given: Any, **more: Any) -> Any:
        unstopped = session.model_copy(update={"spec": session.spec.model_copy(update={"stop": False})})
        return right(unstopped, *given, **more)

    lifecycle.end = deaf


def ignores_runners() -> None:
    """A session ends when its time is up, whatever becomes of its runner."""
    right = lifecycle.end

    def deaf(*given: Any, **more: Any) -> Any:
        return right(*given, **{**more, "runner": None})

    lifecycle.end = deaf


def takes_all_for_finished() -> None:
    """Whatever a session is bound to is over as soon as it is seen."""
    runners.finished = lambda kind, status: True


def keeps_old_addresses() -> None:
    """Who has moved is let in from where he was, too."""
    Sources.arrived = lambda *_: None  # type: ignore[method-assign]


def mistakes_pods() -> None:
    """Every pod leaves from an address that is another's."""
    right = PodFinder.find

    async def astray(*given: Any) -> Any:
        return [each.model_copy(update={"ip": ASTRAY}) for each in await right(*given)]

    PodFinder.find = astray  # type: ignore[method-assign]


WAYS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        revokes_foreign_rules,
        never_revokes,
        revokes_early,
        opens_without_use,
        ignores_stop,
        ignores_runners,
        takes_all_for_finished,
        keeps_old_addresses,
        mistakes_pods,
    )
}

if __name__ == "__main__":
    WAYS[sys.argv.pop(1)]()
    main()
