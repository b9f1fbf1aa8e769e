"""The composition root: the only module that knows every adapter."""

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient

from gatepass.core.ports import Clock, Secrets
from gatepass.core.types.common import NEVER
from gatepass.engine.engine import Engine, EngineSettings
from gatepass.engine.store import Store
from gatepass.engine.verifier import Confinement
from gatepass.kube.api import KubeApi
from gatepass.kube.clock import CorrectedClock
from gatepass.kube.cluster import KubeCluster
from gatepass.kube.drain import drain
from gatepass.kube.events import Events
from gatepass.kube.health import Health
from gatepass.kube.operator import Listing, kube_system_uid, new_client, watch
from gatepass.manifests import requester_policies
from gatepass.providers.aws_security_group import AwsSecurityGroups
from gatepass.settings import Settings

if TYPE_CHECKING:
    from gatepass.audit.writer import Writer

log = structlog.get_logger(__name__)

_API_CONNECTIONS = 64
_LAST_ENTRIES_SECONDS = 5.0


async def connect(kubeconfig: Path | None) -> None:
    """Take the given kubeconfig, else the service account's, else KUBECONFIG's; raises ConfigException for none."""
    if kubeconfig is not None:
        await config.load_kube_config(config_file=str(kubeconfig))
        return
    try:
        config.load_incluster_config()
    except config.ConfigException:
        await config.load_kube_config()


async def run_operator(settings: Settings, kubeconfig: Path | None) -> None:
    """Run until SIGTERM or SIGINT."""
    await connect(kubeconfig)
    clock = CorrectedClock()
    async with new_client(_API_CONNECTIONS) as client:
        api = KubeApi(client, clock)
        events = Events(api, component="gatepass")
        cluster = KubeCluster(api, events, clock, requester_policies(settings.release))
        watching = asyncio.Event()
        health = Health(ready=watching.is_set)
        await health.start(settings.health_host, settings.health_port)
        try:
            await _serve(settings, client, api, events, cluster, clock, watching)
        finally:
            await health.stop()


def audit_writer(settings: Settings, clock: Clock) -> "Writer | None":
    """The audit trail, where there is one; raises DatabaseUrlError."""
    if settings.database_url is None or settings.audit_key_file is None:
        return None
    from gatepass.audit.trail import Trail  # SQLAlchemy takes 20 MB, which an installation without a trail saves
    from gatepass.audit.writer import Writer

    trail = Trail(settings.database_url.get_secret_value(), settings.audit_key_file)
    kept = None if settings.audit_retention == NEVER else settings.audit_retention
    return Writer(trail, clock.now, kept)


async def run_drain(settings: Settings, kubeconfig: Path | None, seconds: float) -> bool:
    """End every session; False when rules may be left after `seconds`."""
    await connect(kubeconfig)
    async with new_client(_API_CONNECTIONS) as client:
        return await drain(KubeApi(client, CorrectedClock()), settings.watch_namespaces, seconds, print)


async def _serve(
    settings: Settings,
    client: ApiClient,
    api: KubeApi,
    events: Events,
    cluster: KubeCluster,
    clock: CorrectedClock,
    watching: asyncio.Event,
) -> None:
    owner = settings.install_id or f"{await kube_system_uid(api)}/{settings.namespace}/{settings.release}"
    secrets: Secrets = cluster
    aws = AwsSecurityGroups(secrets)
    writer = audit_writer(settings, clock)
    engine = Engine(
        EngineSettings(
            owner=owner,
            confinement=Confinement(settings.confinement),
            resync_seconds=settings.resync_seconds,
            default_ttl=settings.default_ttl_after_ended,
            admission_unverified=settings.admission_unverified,
            audit_required=settings.audit_required,
        ),
        Store(),
        {"aws": aws},
        cluster,
        clock,
        writer,
    )
    clock.corrected = engine.clock_corrected
    listing = Listing(api, engine, settings.watch_namespaces)
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
        *([asyncio.create_task(writer.run())] if writer else []),
    ]
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
        if writer is not None:
            await writer.close(_LAST_ENTRIES_SECONDS)
        log.info("stopped")
