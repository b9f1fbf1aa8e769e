"""`gatepass manifests`: what an installation applies beside the operator itself."""

from pathlib import Path
from typing import Annotated

import typer


def manifests(
    namespace: Annotated[str, typer.Option(help="Where Gatepass runs.")] = "gatepass-system",
    service_account: Annotated[str, typer.Option(help="Gatepass's own account there.")] = "gatepass",
    name: Annotated[str, typer.Option(help="What the names of cluster-wide objects begin with.")] = "gatepass",
    watch_namespace: Annotated[
        list[str] | None, typer.Option(help="A namespace that is served; repeat it. By default all are.")
    ] = None,
    crds: Annotated[bool, typer.Option("--crds", help="The CustomResourceDefinitions too, first.")] = False,
    chart_files: Annotated[
        Path | None, typer.Option(help="Write the files there that the chart has in common with this, and print none.")
    ] = None,
) -> None:
    """Print the namespace, RBAC and admission policies, in the order in which they are applied."""
    from gatepass import manifests as package

    if chart_files is not None:
        chart_files.mkdir(parents=True, exist_ok=True)
        for file, text in package.chart_files().items():
            (chart_files / file).write_text(text)
        return
    definitions = package.crds() if crds else []
    installation = package.manifests(namespace, service_account, name, watch_namespace or ())
    print(package.dump([*definitions, *installation]), end="")
