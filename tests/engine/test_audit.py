"""What the engine tells the audit trail, and what waits for it: an open that has to, and never a close."""

import asyncio
from collections import Counter
from datetime import datetime, timedelta

import pytest

from gatepass.core.audit import INSTALLATION, AuditEntry, EventType, Outcome
from gatepass.core.ports import AuditError
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import CHANGED_BY, Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, Phase
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import World

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio]


class TrailInMemory:
    """Keeps each entry once, by its id; `serves` may be cleared, and `slow` makes it answer late."""

    def __init__(self) -> None:
        self.entries: dict[str, AuditEntry] = {}
        self.serves = True
        self.slow = 0.0

    def record(self, *entries: AuditEntry) -> None:
        if self.serves:
            self.entries.update({entry.id: entry for entry in entries if entry.id not in self.entries})

    async def written(self, *entries: AuditEntry) -> None:
        await asyncio.sleep(self.slow)
        if not self.serves:
            raise AuditError("away")
        self.record(*entries)

    def told(self, namespace: str = "ci") -> list[AuditEntry]:
        return [entry for entry in self.entries.values() if entry.namespace == namespace]

    def events(self, namespace: str = "ci") -> list[str]:
        return [entry.event.value for entry in self.told(namespace)]


@pytest.fixture
def trail(world: World) -> TrailInMemory:
    trail = TrailInMemory()
    world.audit = trail
    return trail


async def test_the_life_of_a_session_is_told(world: World, cloud: SlowFirewalls, trail: TrailInMemory) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        session = world.session(duration="1m", reason="run 42")
        await asyncio.sleep(5)
        world.edit(AccessSession, session.key, duration="2m")
        await asyncio.sleep(120)
        assert world.status(session).phase is Phase.EXPIRED
    assert trail.events() == [
        "RESOURCE_CREATED",
        "SESSION_STARTED",
        "SESSION_ACTIVATED",
        "RULE_APPLIED",
        "SESSION_EXTENDED",
        "SESSION_EXPIRED",
        "RULE_REMOVED",
    ]
    by_event = {entry.event: entry for entry in trail.told()}
    started = by_event[EventType.SESSION_STARTED]
    assert started.actor == "alice"
    assert started.details["addresses"] == "203.0.113.7/32"
    assert started.details["reason"] == "run 42"
    assert by_event[EventType.RULE_APPLIED].on_behalf_of == "alice"
    assert by_event[EventType.RULE_APPLIED].details["rule"] == "203.0.113.7/32 tcp 5432"
    assert by_event[EventType.RULE_APPLIED].details["ruleId"] == by_event[EventType.RULE_REMOVED].details["ruleId"]
    assert by_event[EventType.SESSION_EXTENDED].actor is None
    assert trail.events(INSTALLATION) == ["FIREWALL_RULE_WRITTEN", "FIREWALL_RULE_REVOKED"]


async def test_each_move_of_the_end_is_told_also_of_several_in_a_row(
    world: World, cloud: SlowFirewalls, trail: TrailInMemory
) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource(policy={"maxDuration": "12h"})
        session = world.session(duration="1h")
        await asyncio.sleep(5)
        for duration in ("2h", "3h", "4h", "3h30m"):
            world.edit(AccessSession, session.key, duration=duration)
        await asyncio.sleep(5)
        # A change of the policy is one as well, also to what it was before.
        (resource,) = session.resource_keys()
        for longest in ("2h", "12h", "2h"):
            world.edit(ProtectedResource, resource, policy={"maxDuration": longest})
            await asyncio.sleep(5)
    moves = [entry for entry in trail.told() if entry.event.value in ("SESSION_EXTENDED", "SESSION_SHORTENED")]
    told = [(datetime.fromisoformat(each.details["to"]) - session.started_at, each.event.value) for each in moves]
    assert [(lasts / timedelta(hours=1), event.partition("_")[2]) for lasts, event in told] == [
        (2, "EXTENDED"),
        (3, "EXTENDED"),
        (4, "EXTENDED"),
        (3.5, "SHORTENED"),
        (2, "SHORTENED"),
        (3.5, "EXTENDED"),
        (2, "SHORTENED"),
    ]


async def test_a_stop_and_a_refusal_are_told(world: World, cloud: SlowFirewalls, trail: TrailInMemory) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        stopped = world.session("stopped")
        await asyncio.sleep(5)
        world.edit(AccessSession, stopped.key, stop=True)
        await asyncio.sleep(5)
        world.cluster.allowed = lambda _who, _key: False
        world.session("refused")
        await asyncio.sleep(60)  # it is asked again and again, and told once
    by_event = {entry.event: entry for entry in trail.told()}
    assert Counter(trail.events())["SESSION_FAILED"] == 1
    assert by_event[EventType.SESSION_STOPPED].details == {"reason": "Manual"}
    assert by_event[EventType.SESSION_FAILED].outcome is Outcome.FAILURE
    assert "NotAuthorized" in by_event[EventType.SESSION_FAILED].details["ci/staging-db"]


async def test_what_a_killed_process_did_not_write_is_told_at_the_next_start(
    world: World, cloud: SlowFirewalls, trail: TrailInMemory
) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource()
        world.session()
        await asyncio.sleep(5)
    complete = trail.events()
    for _ in range(2):  # once more tells nothing new
        kept = [entry for entry in trail.told() if entry.event is EventType.RESOURCE_CREATED]
        trail.entries = {entry.id: entry for entry in kept}
        async with world.running():
            await asyncio.sleep(5)
        assert sorted(trail.events()) == sorted(complete)


async def test_who_owns_a_resource_is_told_of_sessions_of_others(
    world: World, cloud: SlowFirewalls, trail: TrailInMemory
) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        world.resource("cache", namespace="platform", policy={"allowedNamespaces": {"from": "All"}})
        world.session(resources=({"name": "cache", "namespace": "platform"},))
        await asyncio.sleep(5)
    assert trail.events("platform") == ["RESOURCE_CREATED", "RULE_APPLIED"]
    assert trail.events("ci") == ["SESSION_STARTED", "SESSION_ACTIVATED", "RULE_APPLIED"]


async def test_resources_are_told_with_what_changed_them(
    world: World, cloud: SlowFirewalls, trail: TrailInMemory
) -> None:
    cloud.create("sg-0aaa")
    async with world.running():
        resource = world.resource()
        await asyncio.sleep(5)
        world.edit(ProtectedResource, resource.key, ports=[{"port": 6432}])
        await asyncio.sleep(5)
        world.cluster.delete(ProtectedResource, resource.key)
        await asyncio.sleep(5)
    assert trail.events() == ["RESOURCE_CREATED", "RESOURCE_CHANGED", "RESOURCE_DELETED"]
    assert "6432" in trail.told()[1].details["spec"]


# where the trail is required


async def test_an_open_waits_for_its_entry(world: World, cloud: SlowFirewalls, trail: TrailInMemory) -> None:
    group = cloud.create("sg-0aaa")
    world.audit_required = True
    trail.slow = 10.0
    async with world.running():
        world.resource()
        session = world.session()
        await asyncio.sleep(9)
        assert cloud.rules(group) == {}
        await asyncio.sleep(3)
        assert world.status(session).phase is Phase.ACTIVE
    assert [verb for verb, key in world.cluster.writes if key == session.key and verb == "status"] == ["status"]


async def test_without_its_entry_nothing_opens_and_everything_closes(
    world: World, cloud: SlowFirewalls, trail: TrailInMemory
) -> None:
    group = cloud.create("sg-0aaa")
    world.audit_required = True
    async with world.running():
        world.resource()
        early = world.session("early", duration="1m")
        await asyncio.sleep(5)
        assert len(cloud.rules(group)) == 1
        trail.serves = False
        late = [world.session(f"late-{number}", cidrs=(f"203.0.113.{number}/32",)) for number in range(100, 200)]
        await asyncio.sleep(50)
        for session in late:
            status = world.status(session)
            assert (status.phase, status.resources[0].reason) == (Phase.FAILED, "AuditUnavailable")
        assert len(cloud.rules(group)) == 1
        await asyncio.sleep(6)
        assert world.status(early).phase is Phase.EXPIRED
        assert cloud.rules(group) == {}
        trail.serves = True
        await asyncio.sleep(10)
        phases = [world.status(session).phase for session in late]
        assert (phases.count(Phase.ACTIVE), phases.count(Phase.PENDING)) == (60, 40), "a group takes 60 rules"


async def test_a_restart_without_the_trail_keeps_open_what_was_open(
    world: World, cloud: SlowFirewalls, trail: TrailInMemory
) -> None:
    group = cloud.create("sg-0aaa")
    world.audit_required = True
    async with world.running():
        world.resource()
        session = world.session()
        await asyncio.sleep(5)
    trail.serves = False
    async with world.running():
        for _ in range(30):
            await asyncio.sleep(1)
            assert len(cloud.rules(group)) == 1
            assert world.status(session).phase is Phase.ACTIVE
        world.cluster.delete(AccessSession, session.key)
        await asyncio.sleep(5)
        assert cloud.rules(group) == {}
        assert (AccessSession, Key("ci", "it-1")) not in world.cluster.objects


BOB, CAROL = '{"username":"bob"}', '{"username":"carol"}'


async def test_what_becomes_of_a_key_is_told_however_it_was_done(
    world: World, cloud: SlowFirewalls, trail: TrailInMemory
) -> None:
    async with world.running():
        binding = world.binding(rotation={"interval": "1h", "overlap": "10m"})
        await asyncio.sleep(3700)
        world.edit(ApiKeyBinding, binding.key, stamps={CHANGED_BY: BOB}, scopes=["audit:read"])
        await asyncio.sleep(5)
        world.edit(ApiKeyBinding, binding.key, stamps={CHANGED_BY: CAROL}, revoked=True)
        await asyncio.sleep(5)
    async with world.running():  # told again at the start, and kept once
        await asyncio.sleep(5)
        world.cluster.delete(ApiKeyBinding, binding.key)
        await asyncio.sleep(5)
    told = [entry for entry in trail.told() if entry.subject is not None and entry.subject.uid == binding.uid]
    assert [entry.event.value.removeprefix("API_KEY_") for entry in told] == [
        "CREATED",
        "ISSUED",
        "ISSUED",
        "CHANGED",
        "REVOKED",
        "DELETED",
    ]
    issued = [entry for entry in told if entry.event is EventType.API_KEY_ISSUED]
    assert len({entry.credential for entry in issued}) == 2
    assert [entry.actor for entry in told] == ["alice", "gatepass", "gatepass", "bob", "carol", None]
    assert "audit:read" in told[3].details["spec"]
