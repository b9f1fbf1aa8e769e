"""Brings the engine to life: one full listing, then kopf's watches."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import kopf
import structlog
from kubernetes.aio.client import ApiClient, Configuration

from gatepass.core.ports import ClusterError, GoneError
from gatepass.engine.engine import Engine
from gatepass.kube.api import KubeApi, path_of
from gatepass.kube.handlers import followed, identity, parse_namespace, register
from gatepass.kube.watches import SILENT_SECONDS, Watches

log = structlog.get_logger(__name__)

_LISTING_RETRY_SECONDS: Final = 1.0
_NAMESPACES: Final = "/api/v1/namespaces"
BEGUN_ANEW: Final = "a watch could not go on where it was, and begins at a listing"
"""What the log says of an API server that does not go back so far: 410 Gone."""
_AT_ONCE_SECONDS: Final = SILENT_SECONDS / 2


class Listing:
    """Reads every object of every kind, in pages, and tells the engine what is there and what is gone."""

    def __init__(
        self,
        api: KubeApi,
        engine: Engine,
        namespaces: Sequence[str],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._engine = engine
        self._kinds = {
            path_of(each.kind, namespace): (each, namespace)
            for each in followed(engine)
            for namespace in namespaces or [""]
        }
        self._versions: dict[str, str] = {}
        self._monotonic = monotonic
        self._asked: dict[str, float] = {}

    async def read(self) -> None:
        """One full listing; raises ClusterError or GoneError when it was cut short, and then forgets nothing."""
        forgets = [await self._read(path) for path in (_NAMESPACES, *self._kinds)]
        for forget in reversed(forgets):
            forget()

    async def since(self, path: str) -> str | None:
        """The version from which a watch of a collection misses nothing; None for one that is not listed here.

        It is that of the last listing. Who asks again at once was told that it is too old, so that the collection is
        listed again; who has waited has heard nothing since. Raises ClusterError or GoneError when it cannot be listed.
        """
        if path != _NAMESPACES and path not in self._kinds:
            return None
        now = self._monotonic()
        asked, self._asked[path] = self._asked.get(path, float("-inf")), now
        if path not in self._versions or now - asked < _AT_ONCE_SECONDS:
            log.info(BEGUN_ANEW, path=path)
            (await self._read(path))()
        return self._versions[path]

    async def _read(self, path: str) -> Callable[[], None]:
        """List one collection; answers with what forgets those that were known and are gone."""
        return await (self._read_namespaces() if path == _NAMESPACES else self._read_kind(path))

    async def _read_namespaces(self) -> Callable[[], None]:
        gone = set(self._engine.store.namespaces)
        async for body in self._each(_NAMESPACES):
            gone.discard(body["metadata"]["name"])
            self._engine.namespace_seen(parse_namespace(body))

        def forget() -> None:
            for name in gone:
                self._engine.namespace_gone(name)

        return forget

    async def _read_kind(self, path: str) -> Callable[[], None]:
        of, namespace = self._kinds[path]
        gone = {(key, each.uid) for key, each in of.known.items() if namespace in ("", key.namespace)}
        async for body in self._each(path):
            gone.discard(identity(body))
            of.take(body)

        def forget() -> None:
            for key, uid in gone:
                of.gone(key, uid)

        return forget

    async def _each(self, path: str) -> AsyncIterator[dict[str, Any]]:
        async for page in self._api.listed(path):
            for body in page.get("items", ()):
                yield body
        self._versions[path] = str(page["metadata"]["resourceVersion"])

    async def read_at_last(self) -> None:
        """One full listing, tried again until the API server gives it."""
        while True:
            try:
                return await self.read()
            except (ClusterError, GoneError) as error:
                log.warning("cannot list yet", error=str(error))
                await asyncio.sleep(_LISTING_RETRY_SECONDS)

    async def repeat(self, seconds: float) -> None:
        """List again at every resync, whatever the watches have told."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.read()
            except (ClusterError, GoneError) as error:
                log.warning("cannot list", error=str(error))


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
            await asyncio.sleep(_LISTING_RETRY_SECONDS)


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
