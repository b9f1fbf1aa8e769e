"""The composition root: the only module that knows every adapter."""

import asyncio
import signal
from pathlib import Path

import structlog
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient

from gatepass.core.ports import Secrets
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import Custom
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession
from gatepass.engine.engine import Engine, EngineSettings
from gatepass.engine.store import Store
from gatepass.engine.verifier import Confinement
from gatepass.kube.api import KubeApi
from gatepass.kube.clock import CorrectedClock
from gatepass.kube.cluster import KubeCluster
from gatepass.kube.drain import drain
from gatepass.kube.events import Events
from gatepass.kube.gateway import KubeGateway
from gatepass.kube.health import Health
from gatepass.kube.operator import Listing, bare_client, kube_system_uid, new_client, watch
from gatepass.manifests import requester_policies
from gatepass.providers.aws_security_group import AwsSecurityGroups
from gatepass.rest.application import application
from gatepass.rest.context import Context, RestSettings
from gatepass.rest.server import serving
from gatepass.settings import Settings

log = structlog.get_logger(__name__)

_API_CONNECTIONS = 64


async def connect(kubeconfig: Path | None) -> None:
    """Take the given kubeconfig, else the service account's, else KUBECONFIG's; raises ConfigException for none."""
    if kubeconfig is not None:
        await config.load_kube_config(config_file=str(kubeconfig))
        return
    try:
        config.load_incluster_config()
    except config.ConfigException:
        await config.load_kube_config()


async def run_operator(settings: Settings, kubeconfig: Path | None, *, api: bool = False) -> None:
    """Run until SIGTERM or SIGINT, with the REST API or without."""
    await connect(kubeconfig)
    clock = CorrectedClock()
    async with new_client(_API_CONNECTIONS) as client:
        kube = KubeApi(client, clock)
        events = Events(kube, component="gatepass")
        cluster = KubeCluster(kube, events, clock, requester_policies(settings.release))
        watching, answering = asyncio.Event(), asyncio.Event()
        if not api:
            answering.set()
        health = Health(ready=lambda: watching.is_set() and answering.is_set())
        await health.start(settings.health_host, settings.health_port)
        try:
            await _serve(settings, client, kube, events, cluster, clock, watching, answering)
        finally:
            await health.stop()


async def run_drain(settings: Settings, kubeconfig: Path | None, seconds: float) -> bool:
    """End every session; False when rules may be left after `seconds`."""
    await connect(kubeconfig)
    async with new_client(_API_CONNECTIONS) as client:
        return await drain(KubeApi(client, CorrectedClock()), settings.watch_namespaces, seconds, print)


async def _serve(
    settings: Settings,
    client: ApiClient,
    kube: KubeApi,
    events: Events,
    cluster: KubeCluster,
    clock: CorrectedClock,
    watching: asyncio.Event,
    answering: asyncio.Event,
) -> None:
    owner = settings.install_id or f"{await kube_system_uid(kube)}/{settings.namespace}/{settings.release}"
    secrets: Secrets = cluster
    aws = AwsSecurityGroups(secrets)
    engine = Engine(
        EngineSettings(
            owner=owner,
            confinement=Confinement(settings.confinement),
            resync_seconds=settings.resync_seconds,
            default_ttl=settings.default_ttl_after_ended,
            admission_unverified=settings.admission_unverified,
        ),
        Store(),
        {"aws": aws},
        cluster,
        clock,
    )
    clock.corrected = engine.clock_corrected
    listing = Listing(kube, engine, settings.watch_namespaces)
    # Nothing may be revoked before everything that is granted is known.
    await listing.read_at_last()
    log.info("listed", sessions=len(engine.store.sessions), resources=len(engine.store.resources), owner=owner)
    stop, end_watching = asyncio.Event(), asyncio.Event()

    def take_signals() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def now_watching() -> None:
        take_signals()  # kopf has taken them for itself by now
        watching.set()

    take_signals()
    watcher = asyncio.create_task(watch(client, engine, settings.watch_namespaces, end_watching, now_watching))
    work = [
        asyncio.create_task(engine.run()),
        asyncio.create_task(events.run()),
        asyncio.create_task(listing.repeat(settings.resync_seconds)),
        asyncio.create_task(stop.wait()),
    ]
    if not answering.is_set():
        work.append(asyncio.create_task(_answer(settings, kube, engine, clock, answering)))
    try:
        # Whatever ends first ends the rest: an operator that works in part is worse than one that is started again.
        done, _ = await asyncio.wait([*work, watcher], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        # The work first: kopf waits some seconds for every task that is still there when it ends.
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        end_watching.set()
        await asyncio.gather(watcher, return_exceptions=True)
        aws.close()
        log.info("stopped")


async def _answer(
    settings: Settings, kube: KubeApi, engine: Engine, clock: CorrectedClock, answering: asyncio.Event
) -> None:
    """Serve the REST API until cancelled; `answering` is set once it does."""

    def seen(changed: Custom) -> None:
        match changed:
            case AccessSession():
                engine.session_seen(changed)
            case ProtectedResource():
                engine.resource_seen(changed)
            case ApiKeyBinding():
                engine.binding_seen(changed)

    async with bare_client(_API_CONNECTIONS) as client:
        gateway = KubeGateway(kube, KubeApi(client, clock))
        rest = RestSettings(settings.trusted_proxies, settings.rate_limit, settings.cors_origins, settings.oidc_issuers)
        context = Context(rest, engine.store, gateway, clock, seen)
        async with serving(application(context), settings.api_host, settings.api_port):
            answering.set()
            log.info("the REST API answers", port=settings.api_port)
            await asyncio.Event().wait()
