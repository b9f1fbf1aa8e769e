"""Which objects have finished."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.core.owners import TABLE, Kind, finished, signs_of

JOB, POD = Kind("batch/v1", "Job"), Kind("v1", "Pod")
TASK, RUN = Kind("tekton.dev/v1beta1", "TaskRun"), Kind("tekton.dev/v1", "PipelineRun")
WORKFLOW, RUNNER = Kind("argoproj.io/v1alpha1", "Workflow"), Kind("actions.github.com/v1alpha1", "EphemeralRunner")
OTHER = Kind("example.com/v1", "Build")


def condition(kind: str, status: str = "True", reason: str = "Because") -> dict[str, Any]:
    return {"conditions": [{"type": "Other", "status": "True"}, {"type": kind, "status": status, "reason": reason}]}


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (JOB, condition("Complete")),
        (JOB, condition("Failed", reason="DeadlineExceeded")),
        (POD, {"phase": "Succeeded"}),
        (POD, {"phase": "Failed", "reason": "Evicted"}),
        (POD, {"phase": "Running", **condition("DisruptionTarget", reason="DeletionByTaintManager")}),
        (POD, {"phase": "Running", **condition("DisruptionTarget", reason="DeletionByPodGC")}),
        (POD, {"phase": "Unknown", "reason": "NodeLost"}),
        (TASK, condition("Succeeded")),
        (TASK, condition("Succeeded", "False", "TaskRunTimeout")),
        (RUN, condition("Succeeded", "False", "Cancelled")),
        (WORKFLOW, {"phase": "Error"}),
        (RUNNER, {"phase": "Outdated"}),
        (OTHER, condition("Succeeded", "False")),
        (OTHER, condition("Complete")),
        (OTHER, condition("Failed")),
        (OTHER, condition("Ready", "False", "Completed")),
        (OTHER, {"phase": "Completed"}),
    ],
)
def test_finished(kind: Kind, status: dict[str, Any]) -> None:
    assert finished(kind, status)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (JOB, {"active": 1, **condition("Complete", "False")}),
        (JOB, {"succeeded": 1, "failed": 2, **condition("SuccessCriteriaMet")}),
        (POD, {"phase": "Running", **condition("Ready", "False", "ContainersNotReady")}),
        (POD, {"phase": "Running", **condition("DisruptionTarget", reason="EvictionByEvictionAPI")}),
        (POD, {"phase": "Unknown"}),
        (TASK, condition("Succeeded", "Unknown", "Running")),
        (WORKFLOW, {"phase": "Running", **condition("Completed", "False")}),
        (RUNNER, {"phase": "Running", "ready": True}),
        (OTHER, condition("Ready", "False", "ReconciliationFailed")),
        (OTHER, condition("Ready")),
        (OTHER, {"phase": "Active"}),
        (Kind("v1", "ConfigMap"), {"phase": "Succeeded"}),
        (Kind("apps/v1", "Deployment"), condition("Failed")),
    ],
)
def test_not_finished(kind: Kind, status: dict[str, Any]) -> None:
    assert not finished(kind, status)


json = st.recursive(
    st.none() | st.booleans() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["conditions", "phase", "reason", "type", "status"]), inner)
    ),
    max_leaves=12,
)


@given(status=json, kind=st.sampled_from([JOB, POD, TASK, OTHER]))
def test_whatever_an_object_says_it_is_read(status: Any, kind: Kind) -> None:
    finished(kind, status)


def test_every_kind_has_a_row_and_the_last_row_takes_all() -> None:
    assert TABLE[-1][:2] == ("*", "*")
    assert signs_of(Kind("v1", "Secret")) == (), "its data is never read"
