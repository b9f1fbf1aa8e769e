"""A name that a user gives must not lead a request of ours to somebody else's object."""

import pytest
from kubernetes.aio.client import ApiClient, Configuration
from pydantic import ValidationError

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import ClusterError
from gatepass.core.types.resource import SecretReference
from gatepass.kube.api import KubeApi
from gatepass.kube.clock import CorrectedClock
from gatepass.kube.cluster import KubeCluster
from gatepass.kube.events import Events

ELSEWHERE = ["../../victim/secrets/aws-key", "..", "a/../b", "%2e%2e", "a b", "A", ""]


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_secret_is_named_and_not_navigated_to(name: str) -> None:
    with pytest.raises(ValidationError):
        SecretReference(name=name)


@pytest.mark.parametrize("name", ["aws", "aws-key", "team.aws-key.v1"])
def test_ordinary_names_pass(name: str) -> None:
    assert SecretReference(name=name).name == name


@pytest.mark.parametrize("name", ["../../victim/secrets/aws-key", "..", "%2e%2e/x"])
async def test_the_client_follows_no_path_out_of_its_place(name: str) -> None:
    async with ApiClient(Configuration(host="http://127.0.0.1:1")) as client:
        api = KubeApi(client, CorrectedClock())
        with pytest.raises(ClusterError, match="not a path of an object"):
            await api.call("GET", f"/api/v1/namespaces/evil/secrets/{name}")
        cluster = KubeCluster(api, Events(api, "test"), CorrectedClock(), (), (), lambda _seconds: True)
        with pytest.raises(ProviderError) as refused:
            await cluster.read("evil", name)
        assert refused.value.failure is Failure.RETRY
