"""One API server for all tests here, with what `gatepass manifests` gives applied to it."""

from collections.abc import Iterator

import pytest

from gatepass.manifests import crds, manifests
from gatepass.sandbox import binaries
from gatepass.sandbox.controlplane import ControlPlane
from gatepass.sandbox.kubeapi import KubeApiError
from tests.manifests.tenants import Cluster, session, wait_until


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    control_plane = ControlPlane(binaries.kubernetes(), tmp_path_factory.mktemp("control-plane"))
    control_plane.start()
    cluster = Cluster(control_plane)
    try:
        cluster.api.apply(crds())
        cluster.api.apply(manifests())
        wait_until(lambda: in_force(cluster))
        yield cluster
    finally:
        cluster.close()
        control_plane.stop()


def in_force(cluster: Cluster) -> bool:
    """Is the last of the policies there, and the CRD served to the one that stamps?"""
    twins = session("db", {"name": "db", "namespace": "default"})
    try:
        cluster.admin("default").create(twins, dry_run=True)
    except KubeApiError as error:
        return "twice" in str(error)
    return False
