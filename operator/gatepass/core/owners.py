"""Which objects have finished, told from what they say of themselves: one table, and one function that reads it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple


class Kind(NamedTuple):
    """A kind of objects, as `boundTo` names it."""

    api_version: str
    kind: str

    @property
    def group(self) -> str:
        """Its API group; empty for the core of Kubernetes."""
        return self.api_version.rpartition("/")[0]

    def __str__(self) -> str:
        return f"{self.kind} ({self.api_version})"


class Sighting(NamedTuple):
    """An object that is there: which one, whether it has finished, and since when it is there, if that is known."""

    uid: str
    finished: bool
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Sign:
    """A finished object has one of these values in a field, or as the status of a condition.

    With `reasons`, only when the condition gives one of them.
    """

    values: frozenset[str]
    field: str = "phase"
    condition: str | None = None
    reasons: frozenset[str] = frozenset()


def _phase(*values: str) -> Sign:
    return Sign(frozenset(values))


def _condition(name: str, *values: str, reasons: tuple[str, ...] = ()) -> Sign:
    return Sign(frozenset(values or ("True",)), condition=name, reasons=frozenset(reasons))


ANY: Final = "*"
_ENDED_SUCCEEDED: Final = _condition("Succeeded", "True", "False")

TABLE: Final[tuple[tuple[str, str, tuple[Sign, ...]], ...]] = (
    # Job: https://kubernetes.io/docs/concepts/workloads/controllers/job/#terminal-job-conditions
    ("batch", "Job", (_condition("Complete"), _condition("Failed"))),
    # Pod: a node that is lost never tells that the pod has ended; whoever gives it up says so in DisruptionTarget.
    # https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions
    (
        "",
        "Pod",
        (
            _phase("Succeeded", "Failed"),
            _condition("DisruptionTarget", reasons=("DeletionByTaintManager", "DeletionByPodGC")),
            Sign(frozenset({"NodeLost"}), field="reason"),
        ),
    ),
    # Tekton: Unknown while it runs. https://tekton.dev/docs/pipelines/pipelineruns/#monitoring-execution-status
    ("tekton.dev", "TaskRun", (_ENDED_SUCCEEDED,)),
    ("tekton.dev", "PipelineRun", (_ENDED_SUCCEEDED,)),
    # Argo: Omitted and Skipped are of nodes. https://argo-workflows.readthedocs.io/en/latest/fields/#workflowstatus
    ("argoproj.io", "Workflow", (_phase("Succeeded", "Failed", "Error"),)),
    # actions-runner-controller: what its own EphemeralRunner.IsDone() asks.
    ("actions.github.com", "EphemeralRunner", (_phase("Succeeded", "Failed", "Outdated"),)),
    # They do not finish, they only go: their metadata is enough, and the data of a Secret is none of our business.
    ("", ANY, ()),
    ("apps", ANY, ()),
    ("coordination.k8s.io", ANY, ()),
    # Whatever tells like one of those. Ready=False alone comes and goes, so that it takes a reason which does not.
    (
        ANY,
        ANY,
        (
            _ENDED_SUCCEEDED,
            _condition("Complete"),
            _condition("Completed"),
            _condition("Finished"),
            _condition("Failed"),
            _condition("Ready", "False", reasons=("Completed", "Finished", "PodCompleted", "Succeeded")),
            _phase("Succeeded", "Failed", "Error", "Complete", "Completed", "Finished"),
        ),
    ),
)
"""API group, kind, and the signs of its end; the first row that fits counts."""


def signs_of(kind: Kind) -> tuple[Sign, ...]:
    """What tells that an object of the kind has finished; none when it only ever goes."""
    return next(signs for group, name, signs in TABLE if group in (ANY, kind.group) and name in (ANY, kind.kind))


def finished(kind: Kind, status: Any) -> bool:
    """Does the status of an object say that it has finished? What it does not say in a known way is no."""
    return isinstance(status, Mapping) and any(_shows(sign, status) for sign in signs_of(kind))


def _shows(sign: Sign, status: Mapping[str, Any]) -> bool:
    if sign.condition is None:
        return _is_one_of(status.get(sign.field), sign.values)
    conditions = status.get("conditions")
    found = conditions if isinstance(conditions, list) else []
    return any(
        isinstance(each, Mapping)
        and each.get("type") == sign.condition
        and _is_one_of(each.get("status"), sign.values)
        and (not sign.reasons or _is_one_of(each.get("reason"), sign.reasons))
        for each in found
    )


def _is_one_of(value: Any, values: frozenset[str]) -> bool:
    """Anybody's CRD may hold anything there."""
    return isinstance(value, str) and value in values
