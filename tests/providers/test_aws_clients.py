"""What the calls of all services share: a bounded number of threads."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import Access, Credentials
from gatepass.providers.aws_clients import AwsClients, Clients
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


class Secret:
    """Keys that are always the same, by an API server that may be `silent`; `read` counts."""

    def __init__(self) -> None:
        self.reads = 0
        self.silent = False

    async def read(self, namespace: str, name: str) -> Mapping[str, str]:
        self.reads += 1
        await asyncio.sleep(0)
        if self.silent:
            raise ProviderError(Failure.RETRY, "ApiServer", "it does not answer")
        return {"aws_access_key_id": "AKIAUNREACHABLE00001", "aws_secret_access_key": f"{namespace}/{name}"}


class Account:
    """One way in, whose keys AWS has doubted: something was not allowed."""

    def __init__(self) -> None:
        self.secret, self.time = Secret(), 0.0
        self.clients = AwsClients(self.secret, 4, lambda _seconds: True, lambda: self.time)

    async def revoke(self) -> None:
        await self._call("ec2:RevokeSecurityGroupIngress", lambda _: None)

    async def doubt(self) -> None:
        def denied(_: Clients) -> None:
            raise ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": "no"}}, "CreateTags")

        with pytest.raises(ProviderError, match="UnauthorizedOperation"):
            await self._call("ec2:CreateTags", denied)
        self.secret.reads = 0

    async def _call(self, action: str, request: Callable[[Clients], None]) -> None:
        access = Access("aws", "eu-central-1", Credentials(secret=("team", "keys")))
        await self.clients.call(access, action, request)


@pytest.fixture
def account() -> Iterator[Account]:
    account = Account()
    yield account
    account.clients.close()


async def test_calls_do_not_wait_in_line_for_a_secret_that_cannot_be_read(account: Account) -> None:
    """What closes by keys that still work would be late by one silence for each that waits before it."""
    await account.doubt()
    account.secret.silent = True
    await asyncio.gather(*(account.revoke() for _ in range(8)))
    assert account.secret.reads == 1


async def test_a_secret_that_could_not_be_read_once_is_not_read_before_every_call(account: Account) -> None:
    await account.doubt()
    account.secret.silent = True
    await account.revoke()
    account.secret.silent, account.secret.reads = False, 0
    for _ in range(10):
        account.time += 60
        await account.revoke()
    assert account.secret.reads == 1
