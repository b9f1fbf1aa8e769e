"""What the product says of itself, and still does, when nothing has stood in anybody's way for long."""

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from gatepass.engine.insight import Snapshot
from tests.simulation.cloud import KINDS


def ailments(snapshot: Snapshot, resources: Iterable[Mapping[str, Any]], groups: Set[str]) -> Iterator[str]:
    """What it says is the matter, but for what is being deleted and for groups that do not exist."""
    for target in snapshot.targets:
        if target.target.id in groups and (target.failing or target.overdue):
            yield f"{target}"
    if snapshot.overdue_seconds:
        yield f"overdue for {snapshot.overdue_seconds:g} s"
    for resource in resources:
        if "deletionTimestamp" in resource["metadata"]:
            continue
        told = {each["type"]: each for each in resource.get("status", {}).get("conditions", ())}
        ready = told.get("Ready", {})
        if ready.get("status") != "True" and groups.issuperset(resource["spec"]["aws"]["securityGroups"]):
            yield f"{resource['metadata']['name']}: {ready}"
    missing = any(target.target.id not in groups for target in snapshot.targets)
    for name, load in snapshot.queues.items():
        if load.failing and not (missing and name in ("target", "verify")):
            yield f"queue {name}: {load}"


def writes(calls: Mapping[str, int]) -> int:
    """How many calls were made to change a group."""
    return sum(calls.get(verb, 0) for verb in KINDS)
