"""`gatepass operator` and `gatepass serve`, which the image runs, and `gatepass drain` for the uninstall."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gatepass.settings import Settings

    T = TypeVar("T")

Kubeconfig = Annotated[
    Path | None, typer.Option(exists=True, dir_okay=False, help="Instead of the service account or KUBECONFIG.")
]


def _past(text: str) -> datetime:
    """A moment that has passed, with its zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a time such as 2026-11-22T18:00:00Z") from None
    if moment.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no zone: write {text}Z for UTC")
    if moment > datetime.now(UTC):
        raise typer.BadParameter(f"{text!r} is in the future: sessions that are yet to be made would end too")
    return moment.astimezone(UTC).replace(microsecond=0)


Cutoff = Annotated[
    datetime | None,
    typer.Option(
        parser=_past,
        metavar="TIME",
        help="End every session that was created before, such as 2026-11-22T18:00:00Z: for a cluster that was "
        "restored from a backup, where sessions are live again that have ended since.",
    ),
]


def operator(
    kubeconfig: Kubeconfig = None,
    end_sessions_created_before: Cutoff = None,
) -> None:
    """Reconcile AccessSessions, ProtectedResources and ApiKeyBindings until SIGTERM, while no other replica does."""
    from gatepass.app import run_operator

    _run(lambda settings: run_operator(settings, kubeconfig, end_sessions_created_before))


def serve(
    kubeconfig: Kubeconfig = None,
    end_sessions_created_before: Cutoff = None,
) -> None:
    """The same, and answer the REST API."""
    from gatepass.app import run_operator

    _run(lambda settings: run_operator(settings, kubeconfig, end_sessions_created_before, api=True))


def drain(
    kubeconfig: Kubeconfig = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until it gives up.")] = 300,
) -> None:
    """End every session, and wait until no session has rules left; exits with 1 and says which have."""
    from gatepass.app import run_drain

    if not _run(lambda settings: run_drain(settings, kubeconfig, timeout)):
        raise typer.Exit(1)


def _run(work: "Callable[[Settings], Coroutine[Any, Any, T]]") -> "T":
    """Read the settings, set up the logs, and run; what is wrong with either is told in one line."""
    import asyncio
    import sys

    import structlog
    from kubernetes.aio.config import ConfigException
    from pydantic import ValidationError

    from gatepass import logs
    from gatepass.kube.lease import LeaseLostError
    from gatepass.settings import Settings

    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            setting, *item = problem["loc"] or ("",)
            name = f"GATEPASS_{str(setting).upper()}" + "".join(f"[{each}]" for each in item)
            print(f"gatepass: {name}: {problem['msg']}", file=sys.stderr)
        raise typer.Exit(2) from None
    logs.configure(settings.log_format, settings.log_level)
    try:
        return asyncio.run(work(settings))
    except (ConfigException, LeaseLostError, OSError) as error:
        structlog.get_logger(__name__).error(str(error))
        raise typer.Exit(1) from None
