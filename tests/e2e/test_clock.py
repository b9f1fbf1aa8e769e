"""The operator's clock is wrong, and nobody but its log and its metrics notices: what counts is the API server's."""

import json
from pathlib import Path

import libfaketime
import pytest

from gatepass.sandbox.environment import Sandbox
from tests.e2e.firewall import Group
from tests.e2e.product import Product
from tests.e2e.scrape import Scrape
from tests.e2e.tenant import Tenant, in_seconds, wait_for

LIBRARY = Path(libfaketime.__file__).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"

# The fix takes the wrong clock where the monotonic one is right: waits of 5 ms, as for Python's own lock, end at once.
RIGHT_MONOTONIC = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_FORCE_MONOTONIC_FIX": "0"}


@pytest.mark.parametrize("wrong", ["+90s", "-90s"])
def test_sessions_open_and_close_by_the_api_servers_clock(
    wrong: str, tenant: Tenant, product: Product, group: Group, sandbox: Sandbox
) -> None:
    """That they close neither early nor late is for the observer to say, which watches all these tests."""
    assert LIBRARY.exists()
    told = sandbox.operator_log.stat().st_size
    with product.with_settings(LD_PRELOAD=str(LIBRARY), FAKETIME=wrong, **RIGHT_MONOTONIC):
        tenant.resource(group.id)
        end = in_seconds(20)
        created = tenant.get("accesssessions", tenant.session(name="brief", notAfter=end))
        tenant.session(name="longer", cidrs=("203.0.113.8/32",), duration="1m")
        brief = tenant.until_phase("brief", "Active")
        tenant.until_phase("longer", "Active")
        assert brief["status"]["startedAt"] == created["metadata"]["creationTimestamp"]
        assert tenant.until_phase("brief", "Expired")["status"]["endedAt"] == end
        wait_for(lambda: group.open_to() == {("203.0.113.8/32", 5432)}, "only the other one is open")
        tenant.until_stopped("longer")
        (ahead,) = Scrape(sandbox.metrics_url).values("gatepass_clock_offset_seconds")
        said = [json.loads(line) for line in sandbox.operator_log.read_bytes()[told:].splitlines()]
    assert round(ahead, -1) == (90 if wrong.startswith("+") else -90)
    corrected = [entry["seconds"] for entry in said if "clock differs from the API server's" in entry["event"]]
    # The header has whole seconds: later answers tell the rest.
    assert [round(seconds, -1) for seconds in corrected if abs(seconds) > 5] == [-90 if wrong.startswith("+") else 90]
