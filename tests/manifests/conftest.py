"""The API server of the sandbox, with what `gatepass manifests` gives applied to it."""

from collections.abc import Iterator

import pytest

from gatepass.sandbox.environment import Sandbox
from tests.manifests.tenants import Cluster


@pytest.fixture(scope="session")
def cluster(sandbox: Sandbox) -> Iterator[Cluster]:
    cluster = Cluster(sandbox.control_plane)
    cluster.wait_for_policies()
    yield cluster
    cluster.close()
