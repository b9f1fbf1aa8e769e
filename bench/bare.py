"""The floor of memory, as a program of its own: kopf with `on.event` and nothing else, on the same objects.

    KUBECONFIG=... python bench/bare.py SEEN_FILE

It writes how many objects it has seen. Nothing here comes from Gatepass.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import kopf

_TELL_SECONDS = 0.5


async def main(told: Path) -> None:
    """Watch until killed."""
    registry, settings = kopf.OperatorRegistry(), kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    seen = 0

    async def event(**_: Any) -> None:
        nonlocal seen
        seen += 1

    kopf.on.login(registry=registry)(kopf.login_with_kubeconfig)
    for plural in ("accesssessions", "protectedresources"):
        kopf.on.event("gatepass.dev", "v1alpha1", plural, registry=registry)(event)

    def tell() -> None:
        told.write_text(str(seen))
        asyncio.get_running_loop().call_later(_TELL_SECONDS, tell)

    tell()
    await kopf.operator(registry=registry, settings=settings, standalone=True, clusterwide=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
