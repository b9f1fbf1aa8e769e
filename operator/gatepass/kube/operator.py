"""Brings the engine to life: what kopf watches, from where a listing has read, and the clients."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import kopf
import structlog
from kubernetes.aio.client import ApiClient, Configuration

from gatepass.core.ports import ClusterError, GoneError
from gatepass.engine.engine import Engine
from gatepass.kube.api import KubeApi
from gatepass.kube.handlers import register
from gatepass.kube.listing import Listing
from gatepass.kube.watches import Watches

log = structlog.get_logger(__name__)

_RETRY_SECONDS: Final = 1.0


async def login(client: ApiClient) -> kopf.ConnectionInfo:
    """kopf signs in as our own client does; it asks again when a token has run out."""
    given = client.configuration
    header = await given.get_api_key_with_prefix("BearerToken")
    scheme, _, token = header.rpartition(" ") if header else ("", "", None)
    return kopf.ConnectionInfo(
        server=given.host,
        ca_path=given.ssl_ca_cert,
        insecure=not given.verify_ssl,
        username=given.username or None,
        password=given.password or None,
        scheme=scheme or None,
        token=token,
        certificate_path=given.cert_file,
        private_key_path=given.key_file,
        proxy_url=given.proxy,
    )


class _NoDiffs(kopf.DiffBaseStorage):
    """No handler of ours asks for diffs, for which kopf would copy every object of every event."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Nothing to compare."""
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> None:
        """Nothing was kept."""

    def store(self, **_: Any) -> None:
        """Nothing is kept."""


async def watch(
    client: ApiClient,
    engine: Engine,
    listing: Listing,
    namespaces: Sequence[str],
    watches: Watches,
    stop: asyncio.Event,
    ready: Callable[[], None],
) -> None:
    """Run kopf until `stop`, from where `listing` has read.

    `ready` is called when its watches have been started, `watches` says if they live.
    """
    registry = kopf.OperatorRegistry()
    register(registry, engine)

    @kopf.on.login(registry=registry)
    async def _login(**_: Any) -> kopf.AiohttpSession:
        return watches.session(await login(client), listing.since)

    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.scanning.disabled = True
    watches.configure(settings)
    settings.queueing.idle_timeout = 1.0
    ready_flag = asyncio.Event()
    told = asyncio.create_task(_tell(ready_flag, ready))
    try:
        await kopf.operator(
            registry=registry,
            settings=settings,
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
            stop_flag=stop,
            ready_flag=ready_flag,
        )
    finally:
        told.cancel()


async def _tell(flag: asyncio.Event, ready: Callable[[], None]) -> None:
    await flag.wait()
    ready()


async def kube_system_uid(api: KubeApi) -> str:
    """What tells one cluster from another: the uid of its kube-system namespace."""
    while True:
        try:
            return str((await api.call("GET", "/api/v1/namespaces/kube-system"))["metadata"]["uid"])
        except (ClusterError, GoneError) as error:
            log.warning("cannot read namespace kube-system yet", error=str(error))
            await asyncio.sleep(_RETRY_SECONDS)


def bare_client(workers: int) -> ApiClient:
    """A client of the same API server without credentials: whose token it passes on, whose rights it has."""
    given = Configuration.get_default_copy()
    configuration = Configuration(host=given.host)
    configuration.ssl_ca_cert, configuration.verify_ssl = given.ssl_ca_cert, given.verify_ssl
    configuration.proxy = given.proxy
    return client_for(configuration, workers)


def new_client(workers: int) -> ApiClient:
    """A client of the default configuration with room for as many requests at a time."""
    return client_for(Configuration.get_default_copy(), workers)


def client_for(configuration: Configuration, workers: int) -> ApiClient:
    """One that asks the environment for a proxy now, and for nothing else.

    aiohttp's `trust_env` asks for it at each request, on a thread, and takes credentials of ~/.netrc beside our own.
    """
    configuration.proxy = configuration.proxy or _proxy_of(configuration.host)
    configuration.client_session_kwargs = {"trust_env": False}
    client = ApiClient(configuration)
    client.rest_client.maxsize = workers
    client.user_agent = "gatepass"
    return client


def _proxy_of(server: str) -> str | None:
    url = urlsplit(server)
    return None if proxy_bypass(url.netloc) else getproxies().get(url.scheme)
