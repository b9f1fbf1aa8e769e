"""`gatepass operator`: what the image runs."""

from pathlib import Path
from typing import Annotated

import typer


def operator(
    kubeconfig: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Instead of the service account or KUBECONFIG.")
    ] = None,
) -> None:
    """Reconcile AccessSessions and ProtectedResources until SIGTERM."""
    import asyncio
    import sys

    from kubernetes.aio.config import ConfigException
    from pydantic import ValidationError

    from gatepass import logs
    from gatepass.app import run_operator
    from gatepass.settings import Settings

    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "GATEPASS_" + "_".join(map(str, problem["loc"])).upper()
            print(f"gatepass operator: {name}: {problem['msg']}", file=sys.stderr)
        raise typer.Exit(2) from None
    logs.configure(settings.log_format, settings.log_level)
    try:
        asyncio.run(run_operator(settings, kubeconfig))
    except (ConfigException, OSError) as error:
        print(f"gatepass operator: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
