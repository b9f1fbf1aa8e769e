"""boto3 clients: one set for each way in, made off the event loop, renewed when the credentials change."""

import asyncio
import hashlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import boto3
from botocore.config import Config

from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError
from gatepass.core.ports import Access, Secrets
from gatepass.providers.aws_errors import translated

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_service_quotas import ServiceQuotasClient
    from mypy_boto3_sts import STSClient

T = TypeVar("T")

_CONNECT_SECONDS: Final = 3
_READ_SECONDS: Final = 10
"""EC2 answers in well under a second; a longer silence is a lost answer, which the engine knows how to settle."""
_RENEW_BEFORE: Final = timedelta(minutes=10)
_REQUIRED: Final = ("aws_access_key_id", "aws_secret_access_key")


@dataclass(frozen=True, slots=True)
class Clients:
    """The clients of one way in; `fingerprint` tells whether the credentials behind it have changed."""

    ec2: "EC2Client"
    sts: "STSClient"
    quotas: "ServiceQuotasClient"
    fingerprint: str
    expires_at: datetime | None


class ClientPool:
    """Clients by way in, and the threads that use them."""

    def __init__(self, secrets: Secrets, threads: int) -> None:
        self._secrets = secrets
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="aws")
        # One session for all credentials: each further one would cost 22 MB for the same service models.
        self._session = boto3.Session()
        self._making = threading.Lock()  # making clients is not thread-safe
        self._clients: dict[Access, Clients] = {}
        self._waiting: dict[Access, asyncio.Lock] = {}
        # Retries are the engine's: it knows what may be tried again, and what is no longer wanted.
        self._config = Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            max_pool_connections=threads,
            retries={"total_max_attempts": 1},
            user_agent_extra="gatepass",
        )

    async def run(self, action: str, call: Callable[[], T]) -> T:
        """Run a call in a thread of ours; raises ProviderError or UnknownOutcomeError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)
        except Exception as error:
            raise translated(error, action) from None

    async def clients(self, access: Access, *, renew: bool = False) -> Clients:
        """The clients for a way in; `renew` reads a Secret anew."""
        async with self._waiting.setdefault(access, asyncio.Lock()):
            known = self._clients.get(access)
            stale = known is None or (
                known.expires_at is not None and known.expires_at - datetime.now(UTC) < _RENEW_BEFORE
            )
            if known is not None and not stale and not (renew and access.credentials.secret):
                return known
            keys, expires_at = await self._keys(access)
            fingerprint = hashlib.sha256(repr(sorted(keys.items())).encode()).hexdigest()
            if known is None or known.fingerprint != fingerprint:
                known = await self.run(
                    "aws:CreateClient", lambda: self._make(access.region, keys, fingerprint, expires_at)
                )
                self._clients[access] = known
            return known

    async def _keys(self, access: Access) -> tuple[Mapping[str, str], datetime | None]:
        credentials = access.credentials
        if credentials.secret is not None:
            return await self._from_secret(*credentials.secret), None
        if credentials.role is not None:
            return await self._assumed(access)
        return {}, None

    async def _from_secret(self, namespace: str, name: str) -> Mapping[str, str]:
        data = await self._secrets.read(namespace, name)
        for key in _REQUIRED:
            if not data.get(key, "").strip():
                raise ProviderError(
                    Failure.FORBIDDEN, "SecretInvalid", f"Secret {namespace}/{name} has no {key}: add it"
                )
        return {key: data[key].strip() for key in (*_REQUIRED, "aws_session_token") if data.get(key, "").strip()}

    async def _assumed(self, access: Access) -> tuple[Mapping[str, str], datetime]:
        def call() -> Any:
            with self._making:
                sts = self._session.client("sts", region_name=access.region, config=self._config)
            return sts.assume_role(
                RoleArn=access.credentials.role or "",
                RoleSessionName="gatepass",
                ExternalId=access.credentials.external_id or "",
            )["Credentials"]

        try:
            found = await self.run("sts:AssumeRole", call)
        except UnknownOutcomeError as error:
            raise ProviderError(Failure.RETRY, "NoAnswer", str(error)) from None
        keys = {
            "aws_access_key_id": found["AccessKeyId"],
            "aws_secret_access_key": found["SecretAccessKey"],
            "aws_session_token": found["SessionToken"],
        }
        return keys, found["Expiration"]

    def _make(self, region: str, keys: Mapping[str, str], fingerprint: str, expires_at: datetime | None) -> Clients:
        with self._making:
            return Clients(
                ec2=self._session.client("ec2", region_name=region, config=self._config, **keys),  # type: ignore[call-overload]
                sts=self._session.client("sts", region_name=region, config=self._config, **keys),  # type: ignore[call-overload]
                quotas=self._session.client("service-quotas", region_name=region, config=self._config, **keys),  # type: ignore[call-overload]
                fingerprint=fingerprint,
                expires_at=expires_at,
            )

    def close(self) -> None:
        """End the threads once their calls have ended."""
        self._executor.shutdown(wait=False, cancel_futures=True)
