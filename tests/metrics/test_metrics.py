"""What a scrape says of an engine, without a cluster or a cloud."""

import asyncio
from datetime import timedelta

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gatepass import __version__
from gatepass.core.types.session import AccessSessionStatus, Phase
from gatepass.metrics import Metrics
from gatepass.metrics.server import MetricsServer
from gatepass.metrics.sessions import SessionTimes
from gatepass.sandbox.processes import free_ports
from tests.core.builders import NOON, a_session
from tests.engine.firewalls import SlowFirewalls
from tests.engine.world import LoopClock, World


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every series as (name, values of its labels...), the labels in the order of their names."""
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def new_metrics() -> Metrics:
    return Metrics(lambda: -90.0, lambda: {"accesssessions": 12.0})


def test_a_process_that_has_not_listed_yet_tells_of_itself() -> None:
    metrics = new_metrics()
    found = samples(metrics)
    assert found["gatepass_build_info", __version__] == 1
    assert found["gatepass_leader",] == 0
    metrics.leading = lambda: True
    assert samples(metrics)["gatepass_leader",] == 1
    assert found["gatepass_clock_offset_seconds",] == -90
    assert found["gatepass_watch_age_seconds", "accesssessions"] == 12
    assert not any(name.startswith("gatepass_sessions") for name, *_ in found)


def test_calls_are_counted_by_action_and_outcome() -> None:
    metrics = new_metrics()
    for outcome in ("ok", "ok", "throttled"):
        metrics.aws.told("ec2:CreateTags", outcome, 0.3)
    found = samples(metrics)
    assert found["gatepass_aws_calls_total", "ec2:CreateTags", "ok"] == 2
    assert found["gatepass_aws_calls_total", "ec2:CreateTags", "throttled"] == 1
    assert found["gatepass_aws_call_seconds_bucket", "ec2:CreateTags", "0.2"] == 0
    assert found["gatepass_aws_call_seconds_bucket", "ec2:CreateTags", "0.35"] == 3


@pytest.mark.asyncio
@pytest.mark.looptime
async def test_everything_is_looked_up_when_it_is_asked_for(world: World, cloud: SlowFirewalls) -> None:
    cloud.create("sg-0aaa", limit=2)
    metrics = new_metrics()
    async with world.running() as engine:
        metrics.follow(engine.insight, LoopClock().now)
        assert samples(metrics)["gatepass_sessions", "Active"] == 0
        world.resource()
        for number in range(3):
            world.session(f"it-{number}", cidrs=(f"203.0.113.{number}/32",))
        await asyncio.sleep(10)
        found = samples(metrics)
    account, *place = "123456789012", "eu-central-1", "sg-0aaa"
    assert (found["gatepass_sessions", "Active"], found["gatepass_sessions", "Pending"]) == (2, 1)
    assert found["gatepass_claims_waiting",] == 1
    assert found["gatepass_resource_rules_used", "ipv4", "ci/staging-db"] == 2
    assert found["gatepass_resource_rules_limit", "ipv4", "ci/staging-db"] == 2
    for name in ("used", "ours", "limit"):
        assert found[f"gatepass_target_rules_{name}", account, "ipv4", *place] == 2
    assert found["gatepass_target_failing", account, *place] == 0
    assert found["gatepass_queue_depth", "session"] == 0
    assert found["gatepass_drift_repaired_total", "put_back"] == 0
    assert not [name for name in found if any("it-" in part for part in name)], "a label that grows with sessions"


@pytest.mark.parametrize(
    ("before", "after", "opened", "closed"),
    [
        (None, Phase.ACTIVE, 1, 0),
        (Phase.PENDING, Phase.ACTIVE, 1, 0),
        (Phase.ACTIVE, Phase.ACTIVE, 0, 0),
        (Phase.FAILED, Phase.ACTIVE, 0, 0),
        (Phase.PARTIAL, Phase.ACTIVE, 0, 0),
        (Phase.ACTIVE, Phase.EXPIRED, 0, 1),
        (Phase.EXPIRING, Phase.CANCELLED, 0, 1),
        (Phase.ACTIVE, Phase.EXPIRING, 0, 0),
        (Phase.EXPIRED, Phase.EXPIRED, 0, 0),
        (None, Phase.PENDING, 0, 0),
    ],
)
def test_a_session_opens_once_and_closes_once(before: Phase | None, after: Phase, opened: int, closed: int) -> None:
    registry = CollectorRegistry()
    times = SessionTimes(registry, lambda: NOON + timedelta(seconds=4), lambda _session: 0.7)
    times.written(a_session(status={"phase": before} if before else {}), AccessSessionStatus(phase=after))
    value = registry.get_sample_value
    assert value("gatepass_session_ready_seconds_count") == opened
    assert value("gatepass_session_ready_seconds_sum") == 4 * opened
    assert value("gatepass_session_closing_lateness_seconds_count") == closed
    assert value("gatepass_session_closing_lateness_seconds_sum") == pytest.approx(0.7 * closed)


def test_a_session_of_which_nothing_had_to_go_was_not_late() -> None:
    registry = CollectorRegistry()
    times = SessionTimes(registry, lambda: NOON, lambda _session: None)
    times.written(a_session(status={"phase": Phase.PENDING}), AccessSessionStatus(phase=Phase.EXPIRED))
    assert registry.get_sample_value("gatepass_session_closing_lateness_seconds_count") == 0


async def test_the_port_answers_in_what_the_scraper_understands() -> None:
    (port,) = free_ports(1)
    server = MetricsServer(new_metrics().registry)
    await server.start("127.0.0.1", port)
    try:
        for accept, kind in (
            ("", "text/plain"),
            ("application/openmetrics-text;version=1.0.0", "application/openmetrics-text"),
        ):
            url = f"http://127.0.0.1:{port}/metrics"
            async with aiohttp.request("GET", url, headers={"Accept": accept}) as answer:
                assert answer.content_type == kind
                assert f'gatepass_build_info{{version="{__version__}"}} 1.0' in await answer.text()
    finally:
        await server.stop()
