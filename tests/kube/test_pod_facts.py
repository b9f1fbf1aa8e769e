"""What of a pod and of a node decides where traffic leaves from."""

from typing import Any

import pytest

from gatepass.core.egress import NodeFacts
from gatepass.kube.pods import node_facts, pod_facts


@pytest.mark.parametrize(
    ("status", "host_ips", "ips"),
    [
        ({}, (), ()),
        ({"hostIP": "10.0.0.4", "podIP": "10.0.0.9"}, ("10.0.0.4",), ("10.0.0.9",)),
        ({"podIPs": [{"ip": "10.0.0.9"}, {"ip": "2001:DB8::9"}]}, (), ("10.0.0.9", "2001:db8::9")),
        ({"hostIPs": [{"ip": "10.0.0.4"}, {"ip": "::ffff:10.0.0.4"}, {"ip": "junk"}]}, ("10.0.0.4",), ()),
    ],
)
def test_a_pods_addresses_are_canonical(
    status: dict[str, Any], host_ips: tuple[str, ...], ips: tuple[str, ...]
) -> None:
    found = pod_facts({"metadata": {"name": "p", "uid": "u"}, "spec": {}, "status": status})
    assert (found.host_ips, found.ips) == (host_ips, ips)


def test_a_nodes_addresses_are_told_apart_by_type() -> None:
    addresses = [
        {"type": "InternalIP", "address": "10.0.0.4"},
        {"type": "ExternalIP", "address": "203.0.113.4"},
        {"type": "ExternalIP", "address": "203.0.113.4"},
        {"type": "ExternalDNS", "address": "node.example.com"},
        {"type": "Hostname", "address": "node"},
        {"type": "InternalIP", "address": "2001:db8:0::4"},
    ]
    found = node_facts({"metadata": {"name": "node-1"}, "status": {"addresses": addresses}})
    assert found == NodeFacts("node-1", "", ("10.0.0.4", "2001:db8::4"), ("203.0.113.4",))
