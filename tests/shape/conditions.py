"""The invariants of conditions, asserted on every status that a test sees."""

from gatepass.core.types.session import AccessSessionStatus, Phase


def assert_session_conditions(status: AccessSessionStatus) -> None:
    """Ready exactly in Active; Stalled and Reconciling only while True; none of the three once ended."""
    found = {condition.type: condition for condition in status.conditions}
    assert len(found) == len(status.conditions), "a type stands twice"
    assert {"SourceResolved", "RulesApplied", "Settled"} <= found.keys()
    assert all(condition.observed_generation == status.observed_generation for condition in status.conditions)
    assert all(condition.reason for condition in status.conditions)
    for kind in ("Reconciling", "Stalled"):
        assert kind not in found or found[kind].status == "True", f"{kind} may only be True"
    if status.ended_at is not None:
        assert not found.keys() & {"Ready", "Reconciling", "Stalled"}, "an ended session is current for kstatus"
        assert (status.phase is Phase.EXPIRING) == (found["Settled"].status == "False")
        return
    assert (found["Ready"].status == "True") == (status.phase is Phase.ACTIVE)
    assert ("Stalled" in found) == (status.phase is Phase.FAILED)
    assert ("Reconciling" in found) == (found["Settled"].status != "True")
