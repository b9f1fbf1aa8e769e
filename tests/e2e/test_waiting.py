"""More sessions than a group has room for: they open in order, and none of those that end is closed late."""

from typing import Any

from tests.e2e.firewall import Group
from tests.e2e.tenant import SESSION, Tenant, delete_all, wait_for

ROOM, SESSIONS = 20, 120


def by_phase(tenant: Tenant, phase: str) -> list[dict[str, Any]]:
    return [each for each in tenant.listed(SESSION) if each.get("status", {}).get("phase") == phase]


def open_now(tenant: Tenant) -> set[str]:
    return {each["metadata"]["name"] for each in by_phase(tenant, "Active")}


def told_a_place(tenant: Tenant) -> list[str]:
    parts = [part for each in tenant.listed(SESSION) for part in each.get("status", {}).get("resources", ())]
    told = (part.get("message", "") for part in parts if part["state"] == "Waiting")
    return [each for each in told if each.startswith("place ") and "needs 1 rule, 0 free" in each]


def test_who_waits_opens_in_order_and_all_that_end_are_closed(tenant: Tenant, group: Group) -> None:
    tenant.resource(aws={"region": "eu-central-1", "securityGroups": [group.id], "rulesPerSecurityGroup": ROOM})
    for number in range(SESSIONS):
        tenant.session(name=f"it-{number:03}", cidrs=(f"203.0.113.{number}/32",))
    first = wait_for(lambda: len(found := open_now(tenant)) == ROOM and found, "the group is full")
    wait_for(lambda: len(told_a_place(tenant)) == SESSIONS - ROOM, "all others are told their places")

    for name in sorted(first)[: ROOM // 2]:
        tenant.patch(SESSION, name, spec={"stop": True})
    second = wait_for(lambda: len(found := open_now(tenant) - first) == ROOM // 2 and found, "others have their room")
    waited = sorted({f"it-{number:03}" for number in range(SESSIONS)} - first)  # created one after the other
    assert second == set(waited[: ROOM // 2]), "the oldest first"

    delete_all(tenant.api, tenant.path(SESSION))
    wait_for(lambda: not tenant.listed(SESSION), "the end of all sessions")
    assert group.rules() == []
