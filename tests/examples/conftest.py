"""Gatepass at work in the shared sandbox, and the namespace of the examples in it."""

from collections.abc import Iterator

import pytest

from gatepass.sandbox.environment import Sandbox
from tests.examples.site import Site


@pytest.fixture(scope="package")
def site(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The examples' base is applied, for a real security group; jobs run as the account that it makes."""
    sandbox.start_operator()
    site = Site(sandbox.env, tmp_path_factory.mktemp("site"))
    site.install(lambda: sandbox.account_kubeconfig("ci", "runner"))
    yield site
    site.remove()
    sandbox.stop_operator()
