"""When each alert fires and when it does not, for promtool: a value a minute, and the moment to look at."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """`series` maps metrics, with labels, to values in promtool's notation; `says` is the summary, None for silence."""

    alert: str
    series: Mapping[str, str]
    at: str
    says: str | None
    labels: Mapping[str, str] = field(default_factory=dict)
    description: str | None = None


_PLACE = {"account": "123456789012", "region": "eu-central-1", "target": "sg-0aaa"}
_TARGET = ",".join(f'{name}="{value}"' for name, value in _PLACE.items())
_ROOM = 'resource="ci/staging-db",family="ipv4"'
_LATE = "gatepass_session_closing_lateness_seconds"
_CALLS = 'gatepass_aws_calls_total{action="ec2:AuthorizeSecurityGroupIngress"'
_ALIVE = {'gatepass_build_info{version="0.1.0"}': "1x30"}

CASES = [
    Case(
        "GatepassOpenPastEnd",
        {"gatepass_overdue_seconds": "0 45"},
        "1m",
        "A firewall has been open for 45s longer than it should be.",
    ),
    Case("GatepassOpenPastEnd", {"gatepass_overdue_seconds": "0 29 0"}, "1m", None),
    Case(
        "GatepassDown",
        {'gatepass_build_info{version="0.1.0"}': "1 1 stale"},
        "6m",
        "No Gatepass operator is running.",
        {"job": "gatepass-metrics", "namespace": "gatepass-system"},
    ),
    Case("GatepassDown", {'gatepass_build_info{version="0.1.0"}': "1 stale stale 1 1 1 1"}, "6m", None),
    Case(
        "GatepassLeaderMissing",
        {'gatepass_leader{pod="a"}': "0x5", 'gatepass_leader{pod="b"}': "0x5"},
        "3m",
        "No Gatepass operator works on the firewalls, although one is running.",
    ),
    Case(
        "GatepassLeaderMissing", {'gatepass_leader{pod="a"}': "1 0x5", 'gatepass_leader{pod="b"}': "0 1x5"}, "5m", None
    ),
    Case(
        "GatepassClosingLate",
        {f"{_LATE}_count": "0+2x15", f'{_LATE}_bucket{{le="10.0"}}': "0+1x15"},
        "15m",
        "Sessions were closed more than 10 seconds late.",
        description="About 15 sessions of the last 15 minutes. They are closed now.",
    ),
    Case("GatepassClosingLate", {f"{_LATE}_count": "0+2x15", f'{_LATE}_bucket{{le="10.0"}}': "0+2x15"}, "15m", None),
    Case(
        "GatepassTargetFailing",
        {f"gatepass_target_failing{{{_TARGET}}}": "1x20"},
        "11m",
        "Gatepass cannot work on sg-0aaa in eu-central-1 of account 123456789012.",
        _PLACE,
    ),
    Case("GatepassTargetFailing", {f"gatepass_target_failing{{{_TARGET}}}": "1x5 0 1x20"}, "11m", None),
    Case(
        "GatepassResourceNotReady",
        {'gatepass_resources_not_ready{reason="TargetNotFound"}': "2x20"},
        "16m",
        "2 ProtectedResources are not Ready: TargetNotFound.",
        {"reason": "TargetNotFound"},
    ),
    Case(
        "GatepassResourceNotReady",
        {'gatepass_resources_not_ready{reason="TargetNotFound"}': "1x10 stale", **_ALIVE},
        "16m",
        None,
    ),
    Case(
        "GatepassResourceNotReady",
        {'gatepass_resources_not_ready{reason="Deleting"}': "1x20", **_ALIVE},
        "16m",
        None,
    ),
    Case(
        "GatepassCapacityLow",
        {f"gatepass_resource_rules_used{{{_ROOM}}}": "57x20", f"gatepass_resource_rules_limit{{{_ROOM}}}": "60x20"},
        "11m",
        "The groups of ci/staging-db have 5% of their ipv4 rules left.",
        {"resource": "ci/staging-db", "family": "ipv4"},
    ),
    Case(
        "GatepassCapacityLow",
        {f"gatepass_resource_rules_used{{{_ROOM}}}": "54x20", f"gatepass_resource_rules_limit{{{_ROOM}}}": "60x20"},
        "11m",
        None,
    ),
    Case(
        "GatepassOwnerConflict",
        {f"gatepass_target_conflicts{{{_TARGET}}}": "1x10"},
        "6m",
        "1 rules of sg-0aaa carry only half of Gatepass's marks.",
        _PLACE,
    ),
    Case("GatepassOwnerConflict", {f"gatepass_target_conflicts{{{_TARGET}}}": "1x3 0x10"}, "6m", None),
    Case(
        "GatepassSharedInstallId",
        {f"gatepass_target_strangers{{{_TARGET}}}": "2x10"},
        "2m",
        "2 rules of sg-0aaa carry this installation's id and were not made by it.",
        _PLACE,
    ),
    Case("GatepassSharedInstallId", {f"gatepass_target_strangers{{{_TARGET}}}": "2 0x10"}, "2m", None),
    Case(
        "GatepassThrottled",
        {f'{_CALLS},outcome="throttled"}}': "0+6x40", f'{_CALLS},outcome="ok"}}': "0+54x40"},
        "30m",
        "AWS refuses 10% of the calls of ec2:AuthorizeSecurityGroupIngress as too many.",
        {"action": "ec2:AuthorizeSecurityGroupIngress"},
    ),
    Case(
        "GatepassThrottled",
        {f'{_CALLS},outcome="throttled"}}': "0+1x40", f'{_CALLS},outcome="ok"}}': "0+59x40"},
        "30m",
        None,
    ),
    Case(
        "GatepassBehind",
        {'gatepass_queue_oldest_seconds{queue="target"}': "90x10"},
        "6m",
        "Work has waited for 1m 30s in the queue target.",
        {"queue": "target"},
    ),
    Case("GatepassBehind", {'gatepass_queue_oldest_seconds{queue="target"}': "90x3 2x10"}, "6m", None),
    Case(
        "GatepassClockOff",
        {"gatepass_clock_offset_seconds": "-90x20"},
        "11m",
        "The operator's clock and the API server's are 1m 30s apart.",
    ),
    Case("GatepassClockOff", {"gatepass_clock_offset_seconds": "9x20"}, "11m", None),
]
