"""Ends every session and waits until its rules are gone: what an uninstall does first."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from gatepass.core.ports import ClusterError, GoneError
from gatepass.core.types.common import FINALIZER, Key, counted
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import FINAL, AccessSession
from gatepass.kube.api import MERGE_PATCH, KubeApi, path_of

_POLL_SECONDS: Final = 0.5


async def drain(api: KubeApi, namespaces: Sequence[str], seconds: float, tell: Callable[[str], None]) -> bool:
    """Stop every session, also those that come meanwhile; False when rules may be left after `seconds`.

    Objects are read as they are, unparsed, so that one that cannot be understood is not overlooked.
    """
    give_up = asyncio.get_running_loop().time() + seconds
    stopped: set[str] = set()
    left: dict[Key, str] = {}
    while True:
        try:
            left = await _stop_all(api, namespaces, stopped, tell)
            problem = None
        except (ClusterError, GoneError) as error:
            problem = str(error)
        if problem is None and not left:
            break
        if asyncio.get_running_loop().time() >= give_up:
            for key, why in sorted(left.items()):
                tell(f"not closed: {key}: {why}")
            if problem is not None:
                tell(f"not closed: {problem}")
            return False
        await asyncio.sleep(_POLL_SECONDS)
    tell(f"{counted(len(stopped), 'session')} stopped, and no session has rules left")
    async for body in api.each(ProtectedResource, namespaces):
        if ranges := body["spec"].get("staticCIDRs"):
            key = Key(body["metadata"]["namespace"], body["metadata"]["name"])
            tell(
                f"{key} keeps {counted(len(ranges), 'static range')}: "
                "delete it before uninstalling to have that removed"
            )
    return True


async def _stop_all(
    api: KubeApi, namespaces: Sequence[str], stopped: set[str], tell: Callable[[str], None]
) -> dict[Key, str]:
    """Ask every session to stop, and answer which have not closed yet and why."""
    left: dict[Key, str] = {}
    async for body in api.each(AccessSession, namespaces):
        metadata, status = body["metadata"], body.get("status", {})
        key = Key(metadata["namespace"], metadata["name"])
        if status.get("phase") in FINAL and FINALIZER not in metadata.get("finalizers", ()):
            continue
        left[key] = _why(status)
        if status.get("phase") not in FINAL and metadata["uid"] not in stopped:
            try:
                await _stop(api, key)
            except ClusterError as error:
                left[key] = str(error)  # and one that cannot be stopped holds up none of the others
            else:
                stopped.add(metadata["uid"])
                tell(f"stopping {key}")
    return left


async def _stop(api: KubeApi, key: Key) -> None:
    try:
        path = path_of(AccessSession, key.namespace, key.name)
        await api.call("PATCH", path, {"spec": {"stop": True}}, content_type=MERGE_PATCH)
    except GoneError:
        return  # it went by itself


def _why(status: dict[str, Any]) -> str:
    if status.get("phase") in FINAL:
        return "closed, and let go of in some seconds"
    entries = status.get("resources", [])
    told = [f"{entry['name']}: {entry['message']}" for entry in entries if entry.get("message")]
    return "; ".join(told) or str(status.get("phase", "not seen by the operator"))
