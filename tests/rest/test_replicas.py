"""Two replicas that both answer: one trail, one allowance, and whatever is said to one holds at the other."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from gatepass.core.keys import ENTROPY_BYTES, key_hash, make_key
from gatepass.sandbox.environment import Sandbox
from tests.audit.entries import KEY
from tests.audit.postgres import postgres
from tests.e2e.product import ACCOUNT_NAME, Product
from tests.e2e.replicas import Replica, Replicas
from tests.e2e.tenant import wait_for
from tests.rest.organisation import BINDING, ELSEWHERE, Organisation
from tests.rest.valkey import Valkey

NOW = {"Prefer": "wait=30"}
LIMIT = 120
ASKED_EVERY_SECONDS = 1.0  # or who waits would use up what an address is allowed
PATHS = ("/sessions", "/health")
SPARE = make_key(bytes(range(ENTROPY_BYTES)))


@dataclass(frozen=True)
class Pair:
    """The two, what they share, and a way to call each."""

    replicas: Replicas
    valkey: Valkey
    call: Callable[..., httpx.Client]

    def both(self, key: str, address: str = ELSEWHERE) -> tuple[httpx.Client, httpx.Client]:
        """The same caller at the one that leads, and at the one that stands by."""
        leader, standby = self.replicas.pair()
        headers = {"X-API-Key": key}
        return self.call(leader, address, headers), self.call(standby, address, headers)

    def unanswered(self) -> list[int]:
        """How often each has said that the server that counts does not answer."""
        return [each.log.read_text().count("the shared limiter does not answer") for each in self.replicas.all]


@pytest.fixture(scope="module")
def made(service: Product, org: Organisation) -> tuple[str, str, str, str]:
    """A door and a key to it, from before: its id, its group, the key and its name."""
    return (*org.door(), *org.key())


@pytest.fixture(scope="module")
def following(service: Product, org: Organisation) -> tuple[str, str]:
    """The group of a door whose rules follow a change, and a key to it."""
    _, group = org.door("follows", policy={"followAddressChanges": True})
    return group, org.key(resources=[{"name": "follows"}])[0]


@pytest.fixture(scope="module")
def pair(
    made: tuple[str, str, str, str],
    following: tuple[str, str],
    sandbox: Sandbox,
    service: Product,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    folder: Path = tmp_path_factory.mktemp("shared")
    keys = folder / "keys"
    keys.write_text(KEY + "\n")
    service.stop()
    with ExitStack() as stack:
        stack.callback(service.start)
        url = stack.enter_context(postgres())
        valkey = Valkey(folder)
        valkey.start()
        stack.callback(valkey.stop)
        settings = {
            "GATEPASS_DATABASE_URL": url,
            "GATEPASS_AUDIT_KEY_FILE": str(keys),
            "GATEPASS_RATE_LIMIT": str(LIMIT),
            "GATEPASS_RATE_LIMIT_STORAGE": valkey.url,
        }
        api = stack.enter_context(sandbox.control_plane.api())
        replicas = Replicas(api, *(Replica(sandbox, name, "serve", **settings) for name in ("c", "d")))

        def call(replica: Replica, address: str, headers: dict[str, str]) -> httpx.Client:
            base = f"http://127.0.0.1:{replica.api_port}/api/v1"
            given = {"X-Forwarded-For": address, **headers}
            return stack.enter_context(httpx.Client(base_url=base, headers=given, timeout=60, trust_env=False))

        stack.enter_context(replicas.running())
        yield Pair(replicas, valkey, call)


def reads(sandbox: Sandbox) -> int:
    """How often Gatepass has read sessions from the API server, watches aside."""
    whole, _, _ = sandbox.control_plane.audit_log.read_text().rpartition("\n")
    entries = (json.loads(line) for line in whole.splitlines())
    return sum(
        entry["user"].get("username") == ACCOUNT_NAME
        and entry["verb"] in ("get", "list")
        and entry.get("objectRef", {}).get("resource") == "accesssessions"
        for entry in entries
    )


def test_both_answer_and_know_the_same(
    pair: Pair, made: tuple[str, str, str, str], org: Organisation, sandbox: Sandbox
) -> None:
    _, group, key, _ = made
    leader, standby = pair.both(key)
    before = reads(sandbox)
    for here, there in ((leader, standby), (standby, leader)):
        told = here.post("/sessions", json={}, headers=NOW)
        assert (told.status_code, told.json()["status"]) == (200, "ACTIVE"), told.text
        uid = told.json()["id"]
        assert there.get(f"/sessions/{uid}").json()["id"] == uid  # at once
        assert uid in [each["id"] for each in there.get("/sessions").json()]
        ended = there.post(f"/sessions/{uid}/stop", headers=NOW).json()
        assert (ended["status"], ended["endedReason"]) == ("CANCELLED", "MANUAL")
        assert here.get(f"/sessions/{uid}", headers=NOW).json()["status"] == "CANCELLED"
    assert org.open_to(group) == set()
    assert reads(sandbox) == before, "reads come from what the watches tell"


def test_a_session_is_known_to_the_other_at_once(pair: Pair, made: tuple[str, str, str, str]) -> None:
    leader, standby = pair.both(made[2], "192.0.2.71")
    for here, there in ((leader, standby), (standby, leader)):
        for _ in range(4):
            uid = here.post("/sessions", json={}).json()["id"]
            assert there.get(f"/sessions/{uid}").status_code == 200
            assert there.post(f"/sessions/{uid}/stop").status_code == 200


def test_requests_are_counted_together(pair: Pair) -> None:
    """Failed attempts count; a replica that the server does not answer in time counts for itself, and says so."""
    expected = [(401 if left % 2 else 200, str(left)) for left in range(LIMIT - 1, -1, -1)] + [(429, "0")] * 2
    for last in range(90, 95):
        before, both = pair.unanswered(), pair.both("wrong", f"192.0.2.{last}")
        answers = [each.get(path) for _ in range(LIMIT // 2 + 1) for each, path in zip(both, PATHS, strict=True)]
        found = [(told.status_code, told.headers["X-RateLimit-Remaining"]) for told in answers]
        if found == expected:
            assert all(told.headers["Retry-After"] for told in answers[-2:])
            return
        assert pair.unanswered() != before, found
    raise AssertionError("the server that counts never answers in time")


def test_a_key_that_is_revoked_dies_at_both(pair: Pair, org: Organisation) -> None:
    made = org.bind("revoked-soon", keyHash=key_hash(SPARE), scopes=["sessions:read"])
    both = pair.both(SPARE, "192.0.2.73")
    answers = [lambda each=each: each.get("/auth/me").status_code for each in both]
    wait_for(lambda: {ask() for ask in answers} == {200}, "the key works", pause=ASKED_EVERY_SECONDS)
    org.patch(BINDING, made["metadata"]["name"], spec={"revoked": True})
    began = time.monotonic()
    wait_for(lambda: {ask() for ask in answers} == {401}, "its end", pause=ASKED_EVERY_SECONDS)
    print(f"\nrevoked at both within {time.monotonic() - began:.3f} s")  # noqa: T201  a figure


def test_one_trail_tells_of_both(pair: Pair, made: tuple[str, str, str, str]) -> None:
    leader, standby = pair.both(made[2], "192.0.2.74")
    uids = [each.post("/sessions", json={}).json()["id"] for each in (leader, standby)]
    for each, uid in zip((standby, leader), uids, strict=True):
        assert each.post(f"/sessions/{uid}/stop", headers=NOW).status_code == 200
    for each in (leader, standby):
        wait_for(lambda each=each: _stopped(each) >= set(uids), "both ends are on the trail", pause=ASKED_EVERY_SECONDS)


def _stopped(caller: httpx.Client) -> set[str]:
    page = caller.get("/audit-logs", params={"eventType": "SESSION_STOP_ASKED", "size": 100}).json()
    return {entry["subjectId"] for entry in page["content"]}


def test_a_beat_at_either_moves_the_rule(pair: Pair, org: Organisation, following: tuple[str, str]) -> None:
    group, key = following
    uid = pair.both(key)[0].post("/sessions", json={"heartbeatSeconds": 60}, headers=NOW).json()["id"]
    for turn, address in enumerate(("192.0.2.77", "192.0.2.78", "192.0.2.77")):
        leader_and_standby = pair.both(key, address)
        assert leader_and_standby[turn % 2 - 1].post(f"/sessions/{uid}/heartbeat").status_code == 200
        wait_for(lambda at=address: org.open_to(group) == {f"{at}/32"}, "the rule follows")
    assert pair.both(key)[0].post(f"/sessions/{uid}/stop", headers=NOW).status_code == 200


def test_without_the_server_that_counts_nobody_is_turned_away(pair: Pair, made: tuple[str, str, str, str]) -> None:
    leader, standby = pair.both(made[2], "192.0.2.75")
    before = pair.unanswered()
    pair.valkey.stop()
    for each in (leader, standby):
        answers = [each.get("/health").status_code for _ in range(LIMIT + 1)]
        assert answers == [200] * LIMIT + [429]
    assert pair.unanswered() == [number + 1 for number in before], "once by each"
    pair.valkey.start()


def test_the_other_goes_on_when_the_leader_dies(pair: Pair, made: tuple[str, str, str, str], org: Organisation) -> None:
    leader, _ = pair.replicas.pair()
    _, standby = pair.both(made[2], "192.0.2.76")
    leader.kill()
    told = standby.post("/sessions", json={})
    assert told.status_code == 200
    waited = standby.get(f"/sessions/{told.json()['id']}", headers={"Prefer": "wait=60"}).json()
    assert waited["status"] == "ACTIVE"
    assert standby.post(f"/sessions/{told.json()['id']}/stop", headers=NOW).json()["status"] == "CANCELLED"
    assert org.open_to(made[1]) == set()
