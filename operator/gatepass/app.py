"""The composition root: the only module that knows every adapter."""

import asyncio
import gc
import signal
import time
from collections.abc import Mapping
from contextlib import aclosing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient

from gatepass.core.leadership import ANYBODY
from gatepass.core.ports import Access, Clock, Credentials, SourceFinder
from gatepass.core.types.common import NEVER, Key, SourceKind
from gatepass.egress.aws_topology import AwsTopology
from gatepass.egress.operator import OperatorFinder
from gatepass.egress.pod import PodFinder
from gatepass.engine.claims import ClaimFinder
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
from gatepass.kube.lease import Lease, identity
from gatepass.kube.listing import Listing
from gatepass.kube.operator import bare_client, kube_system_uid, new_client, watch
from gatepass.kube.pods import KubePods
from gatepass.kube.runners import Runners
from gatepass.kube.sessions import follow_sessions
from gatepass.kube.watches import Watches
from gatepass.manifests import requester_policies
from gatepass.metrics import Metrics
from gatepass.metrics.server import MetricsServer
from gatepass.providers.aws_clients import CALL_SECONDS
from gatepass.providers.aws_security_group import AwsSecurityGroups
from gatepass.providers.aws_switches import AwsSwitches
from gatepass.settings import Settings

if TYPE_CHECKING:
    from gatepass.audit.reader import Reader
    from gatepass.audit.writer import Writer

log = structlog.get_logger(__name__)

_API_CONNECTIONS = 64
_NO_LIMIT = 0
_NEW_OBJECTS = 10_000
"""After which garbage is looked for: with Python's 700, that was a third of what reading thousands of sessions took."""
_LISTED_OBJECTS = 1_000_000
"""The same until everything is listed, of which next to nothing is garbage."""
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


async def run_operator(
    settings: Settings, kubeconfig: Path | None, cutoff: datetime | None = None, *, api: bool = False
) -> None:
    """Run until SIGTERM or SIGINT, with the REST API or without.

    Sessions that were created before `cutoff` are ended. Raises LeaseLostError when another replica leads after we did.
    """
    gc.set_threshold(_LISTED_OBJECTS)
    await connect(kubeconfig)
    clock = CorrectedClock()
    async with new_client(_API_CONNECTIONS) as client:
        watching, answering = asyncio.Event(), asyncio.Event()
        if not api:
            answering.set()
        watches = Watches()
        metrics = Metrics(lambda: time.time() - clock.now().timestamp(), watches.ages)
        health = Health(ready=lambda: watching.is_set() and answering.is_set(), dead=watches.dead)
        scraped = MetricsServer(metrics.registry)
        try:
            await health.start(settings.health_host, settings.health_port)
            await scraped.start(settings.health_host, settings.metrics_port)
            kube = KubeApi(client, clock)
            await _serve(settings, client, kube, clock, watches, metrics, watching, answering, cutoff)
        finally:
            await scraped.stop()
            await health.stop()


def audit_trail(settings: Settings, clock: Clock) -> "tuple[Writer, Reader] | tuple[None, None]":
    """The audit trail, where there is one; raises DatabaseUrlError."""
    if settings.database_url is None or settings.audit_key_file is None:
        return None, None
    from gatepass.audit.reader import Reader
    from gatepass.audit.trail import Trail  # SQLAlchemy takes 20 MB, which an installation without a trail saves
    from gatepass.audit.writer import Writer

    trail = Trail(settings.database_url.get_secret_value(), settings.audit_key_file)
    kept = None if settings.audit_retention == NEVER else settings.audit_retention
    return Writer(trail, clock.now, kept), Reader(trail)


async def run_drain(settings: Settings, kubeconfig: Path | None, seconds: float) -> bool:
    """End every session; False when rules may be left after `seconds`."""
    await connect(kubeconfig)
    async with new_client(_API_CONNECTIONS) as client:
        return await drain(KubeApi(client, CorrectedClock()), settings.watch_namespaces, seconds, print)


async def _serve(
    settings: Settings,
    client: ApiClient,
    kube: KubeApi,
    clock: CorrectedClock,
    watches: Watches,
    metrics: Metrics,
    watching: asyncio.Event,
    answering: asyncio.Event,
    cutoff: datetime | None,
) -> None:
    stop, listed, working, end_watching = asyncio.Event(), asyncio.Event(), asyncio.Event(), asyncio.Event()
    name = identity(settings.health_host, settings.health_port)
    # A client of their own: watches would take the connections of those who work, and those who work the lease's.
    watching_client = new_client(_NO_LIMIT)
    following = KubeApi(watching_client, clock)
    lease = Lease(following, settings.namespace, settings.release, name, settings.lease_seconds, clock.now)
    events = Events(kube, component="gatepass")
    policies = requester_policies(settings.release)
    cluster = KubeCluster(kube, events, clock, policies, settings.watch_namespaces, lease.outlasts)
    aws = AwsSecurityGroups(cluster, told=metrics.aws.told, fence=lease.outlasts, scheduler=bool(settings.switch_roles))
    metrics.leading = working.is_set
    owner = settings.install_id or f"{await kube_system_uid(kube)}/{settings.namespace}/{settings.release}"
    writer, reader = audit_trail(settings, clock)
    _take_signals(stop)
    served = not answering.is_set()  # else there is no REST API to wait for
    finders: dict[SourceKind, SourceFinder] = {
        SourceKind.OPERATOR: OperatorFinder(settings.echo_services, clock),
        SourceKind.CLAIM: ClaimFinder(cluster, settings.public_url if served else None),
    }
    engine = Engine(
        EngineSettings(
            owner=owner,
            confinement=Confinement(settings.confinement),
            resync_seconds=settings.resync_seconds,
            default_ttl=settings.default_ttl_after_ended,
            admission_unverified=settings.admission_unverified,
            handover_seconds=settings.lease_seconds + CALL_SECONDS,
            cutoff=cutoff,
            audit_required=settings.audit_required,
            leadership=lease.leadership,
        ),
        Store(),
        {"aws": aws},
        cluster,
        clock,
        {"aws": AwsSwitches(aws.clients, settings.switch_roles)} if settings.switch_roles else {},
        writer,
        finders,
    )
    pods = KubePods(kube, following, engine.source_changed, partial(_live, engine), clock.monotonic)
    finders[SourceKind.POD] = PodFinder(pods, [AwsTopology(partial(_describe, aws))], clock.now, partial(_live, engine))
    engine.ends.steady_for = lease.steady_for
    cluster.session_written = metrics.follow(engine.insight, clock.now)
    listing = Listing(kube, engine, settings.watch_namespaces)

    async def lead() -> None:
        await lease.looked.wait()
        at_once = lease.taken.is_set()
        # Nothing may be revoked before everything that is granted is known.
        await listing.read_at_last()
        log.info("listed", sessions=len(engine.store.sessions), resources=len(engine.store.resources), owner=owner)
        listed.set()
        gc.freeze()  # most of it stays, and is not looked through for garbage any more
        gc.set_threshold(_NEW_OBJECTS)
        if not at_once:
            await aws.warm_up()
            await lease.taken.wait()
            await listing.catch_up_at_last()  # with the last word of whoever led before us, which may not have come yet
        if cutoff is not None:
            lease.leadership.remember(ANYBODY, clock.now())
        working.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(engine.run())
            tasks.create_task(Runners(following, engine.ends, settings.watch_namespaces).run())

    def now_watching() -> None:
        _take_signals(stop)  # kopf has taken them for itself by now
        watching.set()

    async def look_on() -> None:
        await listed.wait()
        await watch(client, engine, listing, settings.watch_namespaces, watches, end_watching, now_watching)

    async def follow() -> None:
        await listed.wait()
        await follow_sessions(following, engine, listing, settings.watch_namespaces, watches)

    watcher = asyncio.create_task(look_on())
    work = [
        asyncio.create_task(lease.run()),
        asyncio.create_task(lead()),
        asyncio.create_task(follow()),
        asyncio.create_task(events.run()),
        asyncio.create_task(listing.repeat(settings.resync_seconds)),
        asyncio.create_task(stop.wait()),
        *([asyncio.create_task(writer.run())] if writer else []),
    ]
    if not answering.is_set():
        work.append(asyncio.create_task(_answer(settings, engine, clock, listed, answering, writer, reader)))
    try:
        # Whatever ends first ends the rest: an operator that works in part is worse than one that is started again.
        done, _ = await asyncio.wait([*work, watcher], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        watching.clear()  # not ready any more: ending takes seconds
        working.clear()
        # The work and the watches first: kopf waits some seconds for every task that is still there when it ends.
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await pods.close()
        await aws.end()  # what is under way has its effect before anybody else looks
        await lease.release()
        end_watching.set()
        if not listed.is_set():
            watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
        aws.close()
        await watching_client.close()
        if writer is not None:
            await writer.close(_LAST_ENTRIES_SECONDS)
        log.info("stopped")


def _live(engine: Engine, key: Key) -> bool:
    session = engine.store.sessions.get(key)
    return session is not None and session.status.ended_at is None


async def _describe(
    aws: AwsSecurityGroups, region: str, action: str, parameters: Mapping[str, Any]
) -> Mapping[str, Any]:
    """As the operator itself, in whose account the cluster is, whatever a resource signs in with."""
    return await aws.describe(Access("aws", region, Credentials()), action, parameters)


async def _answer(
    settings: Settings,
    engine: Engine,
    clock: CorrectedClock,
    listed: asyncio.Event,
    answering: asyncio.Event,
    writer: "Writer | None",
    reader: "Reader | None",
) -> None:
    """Serve the REST API until cancelled, once everything is `listed`; `answering` is set once it does."""
    # FastAPI and all that it needs take half a second and 20 MB, which an operator without the API saves.
    from gatepass.rest.application import application
    from gatepass.rest.context import Context, RestSettings
    from gatepass.rest.jwks import Issuers
    from gatepass.rest.server import serving
    from gatepass.rest.sessions import write_ahead

    await listed.wait()
    # Clients of their own: whoever shows tokens that nobody judges would take the connections of those who work.
    async with new_client(_API_CONNECTIONS) as own, bare_client(_API_CONNECTIONS) as bare:
        gateway = KubeGateway(KubeApi(own, clock), KubeApi(bare, clock))
        shared = settings.rate_limit_storage
        rest = RestSettings(
            trusted_proxies=settings.trusted_proxies,
            rate_limit=settings.rate_limit,
            rate_limit_storage=shared.get_secret_value() if shared is not None else None,
            origins=settings.cors_origins,
            issuers=Issuers(settings.oidc_issuers, settings.oidc_private_issuers, settings.oidc_ca_file),
            admission_unverified=settings.admission_unverified,
        )
        context = Context(rest, engine.store, gateway, clock, engine.seen, writer, reader)
        await write_ahead(context)
        async with aclosing(context), serving(application(context), settings.api_host, settings.api_port):
            answering.set()
            log.info("the REST API answers", port=settings.api_port)
            await asyncio.Event().wait()


def _take_signals(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
