"""The API server of a sandbox, with what `gatepass manifests` gives applied to it."""

from collections.abc import Iterator

import pytest

from gatepass.sandbox.environment import Sandbox
from tests.manifests.tenants import Cluster


@pytest.fixture(scope="session")
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """One of its own: the statuses that are made up here would be breaches to who observes."""
    with Sandbox(operator=False) as running:
        yield running
        running.keep_logs = request.session.testsfailed > 0


@pytest.fixture(scope="session")
def cluster(sandbox: Sandbox) -> Iterator[Cluster]:
    cluster = Cluster(sandbox.control_plane)
    cluster.wait_for_policies()
    yield cluster
    cluster.close()
