"""`gatepass crds`: the CustomResourceDefinitions, as the models define them."""

from pathlib import Path
from typing import Annotated

import typer


def crds(
    directory: Annotated[Path | None, typer.Option(help="Write one file per kind there instead of printing.")] = None,
) -> None:
    """Print the CustomResourceDefinitions."""
    import yaml

    from gatepass.manifests import crds as definitions

    for crd in definitions():
        text = yaml.safe_dump(crd, sort_keys=False, width=120)
        if directory is None:
            print("---\n" + text, end="")
        else:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / f"{crd['metadata']['name']}.yaml").write_text(text)
