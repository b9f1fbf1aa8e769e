"""Two replicas: one works, the other takes over, and whoever was asleep meanwhile does no harm.

How long a takeover took is printed, not asserted: `pytest -s`.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest

from gatepass.providers.aws_clients import CALL_SECONDS
from gatepass.sandbox.environment import Sandbox
from tests.chaos.link import Link, kubeconfig_through
from tests.e2e.firewall import Group
from tests.e2e.meanwhile import meanwhile
from tests.e2e.product import Product
from tests.e2e.replicas import Replica, Replicas
from tests.e2e.scrape import Scrape
from tests.e2e.tenant import RESOURCE, Tenant, in_seconds, wait_for
from tests.observer.observer import Observer

RESYNC_SECONDS = 600.0
LOOK_SECONDS = 0.05


@pytest.fixture(scope="module")
def replicas(sandbox: Sandbox, product: Product) -> Iterator[Replicas]:
    """Two operators instead of the one of the other tests."""
    product.stop()
    with sandbox.control_plane.api() as api:
        replicas = Replicas(api, Replica(sandbox, "a"), Replica(sandbox, "b"))
        with replicas.running():
            yield replicas
    product.start()


@pytest.fixture
def pair(replicas: Replicas) -> tuple[Replica, Replica]:
    """The one that works and the one that stands by, both up."""
    for each in replicas.all:
        if each.ended():
            each.start()
    return replicas.pair()


@pytest.fixture(autouse=True)
def _promise_kept_by_two(
    _promise_kept: None, sandbox: Sandbox, owner: str, replicas: Replicas, pair: tuple[Replica, Replica]
) -> Iterator[None]:
    """Lateness counts while somebody leads who is there; everything else always."""
    with (
        sandbox.control_plane.api() as api,
        Observer(sandbox, owner, RESYNC_SECONDS, trusting=False) as observer,
        telling_who_leads(Replicas(api, *replicas.all), observer),
    ):
        observer.catch_up()
        yield
        assert not observer.take_breaches()


def telling_who_leads(replicas: Replicas, observer: Observer) -> AbstractContextManager[None]:
    """Meanwhile, nobody is asked to be on time while nobody leads."""

    def tell(over: threading.Event) -> None:
        told = None
        while not over.wait(LOOK_SECONDS):
            led = replicas.leader() is not None
            if led != told:
                observer.reachable(reachable=led)
                told = led

    return meanwhile(tell)


def takes_over(replicas: Replicas, standby: Replica, event: Callable[[], None]) -> None:
    """Have it happen, and wait for the other to lead."""
    began = time.monotonic()
    event()
    wait_for(lambda: replicas.leader() is standby, "the standby leads")
    print(f"\n{event.__name__}: the standby led after {time.monotonic() - began:.2f} s")  # noqa: T201  a figure


def test_both_are_ready_and_one_works(
    replicas: Replicas, pair: tuple[Replica, Replica], tenant: Tenant, group: Group, sandbox: Sandbox
) -> None:
    leader, standby = pair
    last = sandbox.ec2.last()
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    tenant.until_stopped("it-1")
    assert leader.ready()
    assert standby.ready()
    assert len(leader.writes(last)) == 2
    assert standby.calls(last) == []
    assert replicas.pair() == pair
    wait_for(lambda: Scrape(standby.metrics_url).value("gatepass_sessions", phase="Cancelled"), "the standby has heard")
    assert [Scrape(each.metrics_url).value("gatepass_leader") for each in pair] == [1, 0]
    waits = Scrape(standby.metrics_url)
    assert waits.value("gatepass_queue_depth") == waits.value("gatepass_queue_oldest_seconds") == 0, (
        "nobody waits for it"
    )


def test_a_leader_that_is_told_to_end_hands_over_at_once(
    replicas: Replicas, pair: tuple[Replica, Replica], tenant: Tenant, group: Group
) -> None:
    leader, standby = pair
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(notAfter=in_seconds(25)), "Active")
    before = group.rules()
    takes_over(replicas, standby, leader.terminate)
    assert replicas.gap(leader) < replicas.lease()["leaseDurationSeconds"], "nobody has waited for the end of the lease"
    tenant.until_phase(tenant.session(name="it-2", cidrs=("203.0.113.8/32",)), "Active")
    assert before[0] in group.rules(), "an update leaves the doors open"
    tenant.until_phase("it-1", "Expired")
    assert group.open_to() == {("203.0.113.8/32", 5432)}
    wait_for(leader.ended, "it has ended")


def test_a_new_leader_reads_again_when_nothing_of_the_old_one_can_be_under_way(
    replicas: Replicas, pair: tuple[Replica, Replica], tenant: Tenant, group: Group, sandbox: Sandbox
) -> None:
    leader, standby = pair
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    last, under_way = sandbox.ec2.last(), replicas.lease()["leaseDurationSeconds"] + CALL_SECONDS
    over = datetime.now(UTC) + timedelta(seconds=under_way)
    takes_over(replicas, standby, leader.terminate)

    def reads() -> list[datetime]:
        calls = (each for each in standby.calls(last) if each["action"] == "DescribeSecurityGroupRules")
        return [datetime.fromisoformat(each["time"]) for each in calls if group.id in str(each)]

    wait_for(
        lambda: any(each >= over for each in reads()),  # the first one may be late, which makes the second no later
        "it reads the group again",
        seconds=under_way + 20,
    )


def test_who_is_told_to_end_is_not_ready_while_it_does(
    replicas: Replicas, pair: tuple[Replica, Replica], sandbox: Sandbox
) -> None:
    leader, _ = pair
    with sandbox.control_plane.frozen_api():  # it waits for an answer to the release of its lease
        leader.terminate()
        wait_for(leader.unready, "it says that it is not ready")
        assert not leader.ended()
    wait_for(leader.ended, "it has ended")


def test_a_leader_that_dies_is_followed(
    replicas: Replicas, pair: tuple[Replica, Replica], tenant: Tenant, group: Group, sandbox: Sandbox
) -> None:
    leader, standby = pair
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(notAfter=in_seconds(20)), "Active")
    tenant.until_phase(tenant.session(name="stopped", cidrs=("203.0.113.8/32",)), "Active")
    tenant.until_phase(tenant.session(name="stays", cidrs=("203.0.113.9/32",)), "Active")
    kept = [rule for rule in group.rules() if rule["cidrIpv4"] == "203.0.113.9/32"]

    def kill() -> None:
        leader.kill()
        tenant.edit("stopped", stop=True)
        tenant.session(name="new", cidrs=("203.0.113.10/32",))

    takes_over(replicas, standby, kill)
    tenant.until_phase("it-1", "Expired")
    tenant.until_phase("stopped", "Cancelled")
    tenant.until_phase("new", "Active")
    assert group.open_to() == {("203.0.113.9/32", 5432), ("203.0.113.10/32", 5432)}
    assert kept[0] in group.rules()
    tenant.until_condition(RESOURCE, "db", "Ready")


def test_a_successor_learns_what_its_watches_have_not_told_it(
    replicas: Replicas, pair: tuple[Replica, Replica], tenant: Tenant, group: Group, sandbox: Sandbox
) -> None:
    leader, standby = pair
    standby.terminate()
    wait_for(standby.ended, "it has ended")
    tenant.resource(group.id)
    with Link(urlsplit(sandbox.control_plane.server).port or 0) as link:
        through = kubeconfig_through(f"https://127.0.0.1:{link.port}", sandbox, "deaf")
        deaf = Replica(sandbox, "deaf", options=["--kubeconfig", str(through)])
        deaf.start()
        try:
            tenant.until_phase(tenant.session(name="over", notAfter=in_seconds(25)), "Active")
            wait_for(lambda: Scrape(deaf.metrics_url).value("gatepass_sessions", phase="Active") == 1, "it has heard")
            link.silence()
            tenant.until_phase(tenant.session(name="stays", cidrs=("203.0.113.8/32",)), "Active")
            takes_over(Replicas(tenant.api, deaf), deaf, leader.terminate)
            tenant.until_phase("over", "Expired")  # by then a pass has been over the whole group
            assert group.open_to() == {("203.0.113.8/32", 5432)}
            assert [call["action"] for call in deaf.writes()] == ["RevokeSecurityGroupIngress"]
        finally:
            deaf.terminate()
            deaf.reap()
            standby.start()
    listed = next(json.loads(line)["listed"] for line in deaf.log.read_text().splitlines() if '"caught up"' in line)
    assert "/apis/gatepass.dev/v1alpha1/accesssessions" in listed


def test_a_leader_that_was_asleep_wakes_up_and_writes_nothing(
    replicas: Replicas, pair: tuple[Replica, Replica], tenant: Tenant, group: Group, sandbox: Sandbox
) -> None:
    leader, standby = pair
    tenant.resource(group.id)
    # What is due while it sleeps is the first thing that it wants to do when it wakes up.
    end = in_seconds(20)
    for number in range(5):
        name = tenant.session(name=f"due-{number}", cidrs=(f"203.0.113.{number}/32",), notAfter=end)
        tenant.until_phase(name, "Active")
    tenant.until_phase(tenant.session(name="longer", cidrs=("203.0.113.50/32",), notAfter=end), "Active")
    tenant.until_phase(tenant.session(name="stays", cidrs=("203.0.113.60/32",)), "Active")

    takes_over(replicas, standby, leader.freeze)
    for number in range(5):
        tenant.until_phase(f"due-{number}", "Expired")
    # The same address again, which the sleeper knows as one to be closed.
    tenant.until_phase(tenant.session(name="again", cidrs=("203.0.113.50/32",)), "Active")
    rules, last = group.rules(), sandbox.ec2.last()
    assert group.open_to() == {("203.0.113.50/32", 5432), ("203.0.113.60/32", 5432)}

    leader.thaw()
    wait_for(leader.ended, "it has ended")
    assert leader.writes(last) == []
    assert group.rules() == rules
    assert "is lost: it could not be renewed in time" in leader.log.read_text()
    assert replicas.leader() is standby


def test_an_outage_of_the_api_server_ends_the_leader_and_nothing_else(
    replicas: Replicas, pair: tuple[Replica, Replica], tenant: Tenant, group: Group, sandbox: Sandbox
) -> None:
    leader, standby = pair
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(notAfter=in_seconds(30)), "Active")
    tenant.until_phase(tenant.session(name="stays", cidrs=("203.0.113.8/32",)), "Active")
    last = sandbox.ec2.last()
    sandbox.control_plane.stop_api()
    try:
        wait_for(leader.ended, "the leader gives up")
        assert not any(each.writes(last) for each in replicas.all), "nobody knew who leads"
    finally:
        sandbox.restart_api()
        tenant.api.close()  # it was cut, and is opened again by the next request
    assert "is lost: it could not be renewed in time" in leader.log.read_text()
    wait_for(lambda: replicas.leader() is standby, "the standby leads")
    tenant.until_phase("it-1", "Expired")
    tenant.until_phase(tenant.session(name="new", cidrs=("203.0.113.9/32",)), "Active")
    assert group.open_to() == {("203.0.113.8/32", 5432), ("203.0.113.9/32", 5432)}
