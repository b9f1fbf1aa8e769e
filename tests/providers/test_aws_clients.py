"""What the calls of all services share: a bounded number of threads."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest
from botocore.exceptions import ReadTimeoutError

from gatepass.core.errors import ProviderError
from gatepass.providers.aws_clients import Clients
from gatepass.providers.aws_security_group import AwsSecurityGroups
from tests.providers.worlds import AwsWorld, Vault


@pytest.mark.parametrize("service", ["sts", "servicequotas", "scheduler"])
async def test_a_service_that_is_silent_holds_one_thread(aws_world: AwsWorld, vault: Vault, service: str) -> None:
    """EC2's calls need the others: what must close waits for no service that is only asked beside."""
    provider, asked, end = AwsSecurityGroups(vault, threads=2), threading.Event(), threading.Event()

    def lost(_: Clients) -> None:
        raise ReadTimeoutError(endpoint_url=service)

    def silent(_: Clients) -> None:
        asked.set()
        end.wait()

    def call(request: Callable[[Clients], None]) -> Awaitable[None]:
        return provider.clients.read(aws_world.access, f"{service}:Test", request)

    try:
        for _ in range(3):
            with pytest.raises(ProviderError, match="NoAnswer"):
                await call(lost)
        asking = asyncio.ensure_future(call(silent))
        await asyncio.to_thread(asked.wait)
        async with asyncio.timeout(30):
            with pytest.raises(ProviderError, match="NoConnection"):
                await call(silent)
            assert await provider.observe(aws_world.access, aws_world.firewall()) == []
        end.set()
        await asking
        await call(lambda _: None)
    finally:
        end.set()
        provider.close()
