"""boto3 clients: one set for each way in, made and used off the event loop, renewed as credentials change."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakValueDictionary

import boto3
import structlog
from botocore.config import Config

from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError
from gatepass.core.ports import Access, Credentials, Fence, Secrets
from gatepass.providers.aws_answers import request_id, rule_ids
from gatepass.providers.aws_errors import THROTTLED, translated
from gatepass.providers.aws_lines import Lines

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_scheduler import EventBridgeSchedulerClient
    from mypy_boto3_service_quotas import ServiceQuotasClient
    from mypy_boto3_sts import STSClient

log = structlog.get_logger(__name__)

T = TypeVar("T")
Told = Callable[[str, str, float], None]
"""Hears of a call: its action as IAM spells it, what came of it, one of OUTCOMES, and how many seconds it took."""

_CONNECT_SECONDS: Final = 3.0
_READ_SECONDS: Final = 7.0
"""EC2 answers in well under a second; a longer silence is a lost answer, which the engine knows how to settle."""
CALL_SECONDS: Final = _CONNECT_SECONDS + _READ_SECONDS
"""After which a call has had its effect, if it ever has one."""
_ROLE_SECONDS: Final = 3600
"""What every role allows, and all that one role assumed from another gets."""
_RENEW_BEFORE: Final = 600.0
_RENEW_PAUSE: Final = 30.0
_IDLE_SECONDS: Final = 30.0
"""NAT gateways forget a silent connection after 350 s, other firewalls sooner, and a write on one that is forgotten is
indistinguishable from one whose answer was lost."""
_FORGOTTEN_SECONDS: Final = 3600.0
"""How long a way in that nobody uses any more is remembered."""
_KEY_ID: Final = "aws_access_key_id"
_SECRET_KEY: Final = "aws_secret_access_key"  # noqa: S105  the name of a key in a Secret
_TOKEN: Final = "aws_session_token"  # noqa: S105  the same


@dataclass(frozen=True, slots=True)
class _Keys:
    """What a request is signed with; all None for the operator's own identity. Never shown."""

    id: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Clients:
    """The clients of one way in. Times are monotonic seconds."""

    ec2: "EC2Client"
    sts: "STSClient"
    quotas: "ServiceQuotasClient"
    scheduler: "EventBridgeSchedulerClient | None"
    keys: _Keys = field(repr=False)
    renew_at: float
    ends_at: float

    def close(self) -> None:
        """Close the idle connections; calls under way end as they would."""
        for client in (self.ec2, self.sts, self.quotas, self.scheduler):
            if client is not None:
                client.close()


class AwsClients:
    """Clients by way in, and a bounded number of threads that use them. No write passes the fence.

    `scheduler` says whether EventBridge Scheduler is called too: each client takes memory and time to make.
    """

    def __init__(
        self,
        secrets: Secrets,
        threads: int,
        fence: Fence,
        monotonic: Callable[[], float] = time.monotonic,
        told: Told = lambda _action, _outcome, _seconds: None,
        *,
        scheduler: bool = False,
    ) -> None:
        self._secrets = secrets
        self._fence = fence
        self._scheduler = scheduler
        self._monotonic = monotonic
        self._told = told
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="aws")
        self.lines = Lines(threads // 2)
        # One session for all credentials: each further one would cost 22 MB for the same service models.
        self._session = boto3.Session()
        self._making = threading.Lock()  # a session is not thread-safe
        self._known: dict[Access, Clients] = {}
        self._used: dict[Access, float] = {}
        self._doubted: set[Access] = set()
        self._failed: dict[Access, tuple[float, ProviderError]] = {}
        self._turns: WeakValueDictionary[Access, asyncio.Lock] = WeakValueDictionary()  # of those under way
        # Retries are the engine's: it knows what may be tried again, and what is no longer wanted.
        self._config = Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            max_pool_connections=threads,
            retries={"total_max_attempts": 1},
            user_agent_extra="gatepass",
        )

    async def call(
        self,
        access: Access,
        action: str,
        request: Callable[[Clients], T],
        line: AbstractAsyncContextManager[None] | None = None,
    ) -> T:
        """One request; raises ProviderError or UnknownOutcomeError, named after the action.

        It goes out from within its `line`, of a service that is paced, else from the service's in the Region. Nobody
        enters one before he has signed in: what fails there says nothing of the service.
        """
        clients = await self._clients(access)
        async with line or self._line(action, access.region):
            return await self._called(access, action, partial(request, clients))

    @asynccontextmanager
    async def _line(self, action: str, region: str) -> AsyncIterator[None]:
        with self.lines.call((action.partition(":")[0], region), self._monotonic()):
            yield

    async def _called(self, access: Access, action: str, request: Callable[[], T]) -> T:
        started = self._monotonic()
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._executor, request)
        except Exception as error:
            failed = translated(error, action)
            self._tell(action, outcome_of(failed), error, started)
            if isinstance(failed, ProviderError) and failed.failure is Failure.FORBIDDEN:
                self._doubted.add(access)
            raise failed from None
        self._tell(action, OK, answer, started)
        return answer

    def _tell(self, action: str, outcome: str, answer: object, started: float) -> None:
        seconds = self._monotonic() - started
        self._told(action, outcome, seconds)
        called: dict[str, object] = {"action": action, "outcome": outcome, "request_id": request_id(answer)}
        if outcome == OK and action.split(":")[1].startswith(("Describe", "Get")):
            log.debug("AWS call", **called)  # reads are many, and nobody looks for one that went well
        else:
            log.info("AWS call", **called, rules=rule_ids(answer), seconds=round(seconds, 3))

    async def read(
        self,
        access: Access,
        action: str,
        request: Callable[[Clients], T],
        line: AbstractAsyncContextManager[None] | None = None,
    ) -> T:
        """One request that changes nothing: when its answer is lost, it may be made again."""
        return await _repeatable(self.call(access, action, request, line))

    async def renew(self, access: Access) -> None:
        """Read a Secret anew, and assume a role anew that AWS has refused since it was assumed."""
        async with self._turns.setdefault(access, asyncio.Lock()):
            if access.credentials.secret is None and access not in self._doubted:
                return
            try:
                await self._make(access)
            except ProviderError as error:
                if error.failure is Failure.FORBIDDEN and (known := self._known.pop(access, None)):
                    known.close()  # whoever takes the Secret or the trust away wants no more calls with them
                raise

    async def warm_up(self) -> None:
        """Read the models of the services, which takes longer than any call; nobody is called."""
        nobody = _Keys("nobody", "nobody")
        (await asyncio.to_thread(self._build, "us-east-1", nobody, inf)).close()

    async def end(self) -> None:
        """Start no more calls, and return when those under way have ended."""
        await asyncio.to_thread(self._executor.shutdown, wait=True, cancel_futures=True)

    def close(self) -> None:
        """End the threads once their calls have ended, and close the connections."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        for clients in self._known.values():
            clients.close()

    async def _in_thread(self, action: str, call: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)
        except Exception as error:
            raise translated(error, action) from None

    async def _clients(self, access: Access) -> Clients:
        """Who waits while another one signs in hears what he hears: each for himself would be silent for seconds."""
        came = self._monotonic()
        async with self._turns.setdefault(access, asyncio.Lock()):
            failed_at, failure = self._failed.get(access, (-inf, None))
            if failure is not None and came < failed_at:
                raise failure.with_traceback(None)
            now, known = self._monotonic(), self._known.get(access)
            idle = now - self._used.get(access, now)
            self._used[access] = now
            if known is not None and idle > _IDLE_SECONDS:
                known.close()
            # Whoever rotates a key changes the Secret before AWS refuses the old one.
            rotated = access in self._doubted and access.credentials.secret is not None
            if known is not None and now < known.renew_at and not rotated:
                return known
            try:
                return await self._make(access)
            except ProviderError as error:
                if known is None or now >= known.ends_at:
                    self._failed[access] = self._monotonic(), error
                    raise
                # They still work for a while, and STS may answer until they end.
                self._known[access] = replace(known, renew_at=now + _RENEW_PAUSE)
                if access.credentials.secret is not None:
                    self._doubted.discard(access)  # until AWS refuses them once more
                return known

    async def _make(self, access: Access) -> Clients:
        keys, seconds = await self._sign_in(access)
        ends_at, known = self._monotonic() + seconds, self._known.get(access)
        if known is None or known.keys != keys or (access in self._doubted and keys.id is None):
            made = await _repeatable(
                self._in_thread("aws:CreateClient", lambda: self._build(access.region, keys, ends_at))
            )
            if known is not None:
                known.close()
            self._known[access] = known = made
            self._forget_unused(access)
        else:  # which may have been put off when these could not be had
            self._known[access] = known = replace(known, renew_at=ends_at - _RENEW_BEFORE, ends_at=ends_at)
        self._doubted.discard(access)
        return known

    def _forget_unused(self, in_use: Access) -> None:
        """Clients take 2 MB for each way in, and hold its keys; whoever is still named is verified at each resync."""
        since = self._monotonic() - _FORGOTTEN_SECONDS
        for access in [access for access, used in self._used.items() if used < since and access != in_use]:
            del self._used[access]
            self._doubted.discard(access)
            self._failed.pop(access, None)
            if (known := self._known.pop(access, None)) is not None:
                known.close()

    async def _sign_in(self, access: Access) -> tuple[_Keys, float]:
        """The keys, and how many seconds they last."""
        credentials = access.credentials
        if credentials.secret is not None:
            return _keys_in(await self._secrets.read(*credentials.secret), "/".join(credentials.secret)), inf
        if credentials.role is not None:
            return await self._assume(access, credentials.role, credentials.external_id), _ROLE_SECONDS
        return _Keys(), inf

    async def _assume(self, access: Access, role: str, external_id: str | None) -> _Keys:
        given: dict[str, Any] = {} if external_id is None else {"ExternalId": external_id}
        operator = Access(access.provider, access.region, Credentials())
        try:
            answer = await self.read(
                operator,
                "sts:AssumeRole",
                lambda aws: aws.sts.assume_role(
                    RoleArn=role, RoleSessionName="gatepass", DurationSeconds=_ROLE_SECONDS, **given
                ),
            )
        except ProviderError as error:
            if error.reason != "AccessDenied":
                raise
            raise ProviderError(
                Failure.FORBIDDEN,
                "RoleNotAssumed",
                f"{role} cannot be assumed: its trust policy must allow the operator, with sts:ExternalId "
                f"{external_id}, and the operator's policy sts:AssumeRole on it",
            ) from None
        found = answer["Credentials"]
        return _Keys(found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"])

    def _build(self, region: str, keys: _Keys, ends_at: float) -> Clients:
        given: dict[str, Any] = {
            "region_name": region,
            "config": self._config,
            _KEY_ID: keys.id,
            _SECRET_KEY: keys.secret,
            _TOKEN: keys.token,
        }
        with self._making:
            ec2 = self._session.client("ec2", **given)
            ec2.meta.events.register("before-send.ec2", self._check)
            scheduler = self._session.client("scheduler", **given) if self._scheduler else None
            if scheduler is not None:
                scheduler.meta.events.register("before-send.scheduler", self._check)
            return Clients(
                ec2=ec2,
                sts=self._session.client("sts", **given),
                quotas=self._session.client("service-quotas", **given),
                scheduler=scheduler,
                keys=keys,
                renew_at=ends_at - _RENEW_BEFORE,
                ends_at=ends_at,
            )

    def _check(self, event_name: str, **_: Any) -> None:
        """The last moment before a signed request goes out: threads, tokens and credentials are waited for before."""
        action = event_name.rpartition(".")[2]
        if not action.startswith(("Describe", "List")) and not self._fence(CALL_SECONDS):
            raise ProviderError(
                Failure.RETRY, "NotLeading", f"{action}: another replica may lead before the call has ended"
            )


OK: Final = "ok"
OUTCOMES: Final = (OK, "throttled", "lost", *Failure)


def outcome_of(failed: Exception) -> str:
    """One word of OUTCOMES for what came of a call that did not go well."""
    if not isinstance(failed, ProviderError):
        return "lost"
    return "throttled" if failed.reason in THROTTLED else failed.failure.value


async def _repeatable(work: Awaitable[T]) -> T:
    try:
        return await work
    except UnknownOutcomeError as error:
        raise ProviderError(Failure.RETRY, "NoAnswer", str(error)) from None


def _keys_in(data: Mapping[str, str], name: str) -> _Keys:
    """The keys of a Secret; what is wrong with it is told by the name of the key, never by its value."""
    found = {key: data.get(key, "").strip() for key in (_KEY_ID, _SECRET_KEY, _TOKEN)}
    for key, value in found.items():
        if key != _TOKEN and not value:
            raise ProviderError(Failure.FORBIDDEN, "SecretInvalid", f"Secret {name} has no {key}: add it")
        if not value.isascii() or any(not char.isprintable() or char == " " for char in value):
            raise ProviderError(
                Failure.FORBIDDEN, "SecretInvalid", f"{key} in Secret {name} is not an AWS key: correct it"
            )
    return _Keys(found[_KEY_ID], found[_SECRET_KEY], found[_TOKEN] or None)
