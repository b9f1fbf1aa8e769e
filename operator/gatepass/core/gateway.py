"""The seam through which the REST API asks and writes the API server; reads come from the watched store."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from gatepass.core.types.common import Custom, Key
from gatepass.core.types.session import Requester


class RefusedError(Exception):
    """The API server refused a request: the HTTP status that it gave, its message for people, and which fields."""

    def __init__(self, status: int, message: str, causes: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.causes = dict(causes or {})


class Gateway(Protocol):
    """Raises ClusterError when the API server cannot be reached, RefusedError when it says no.

    With a `token` the caller's own rights decide, without it those of Gatepass's account.
    """

    async def who(self, token: str) -> Requester | None:
        """Whose bearer token it is; None when the API server does not know it."""
        ...

    async def may(self, who: Requester, verb: str, plural: str, namespace: str, name: str = "") -> bool:
        """Has somebody a verb on the custom resources of a kind, or on one of them?"""
        ...

    async def create(self, kind: type[Custom], body: Mapping[str, Any], token: str | None = None) -> dict[str, Any]:
        """Create a custom resource; answers with it."""
        ...

    async def patch(
        self, kind: type[Custom], key: Key, body: Mapping[str, Any], token: str | None = None
    ) -> dict[str, Any]:
        """Merge a patch into a custom resource; answers with it."""
        ...

    async def patch_status(
        self, kind: type[Custom], key: Key, body: Mapping[str, Any], only: Custom | None = None
    ) -> dict[str, Any]:
        """Merge a patch into its status, as Gatepass's account; with `only`, if that is still the newest version."""
        ...

    async def renew(self, lease: Key, at: datetime, token: str | None = None) -> None:
        """Renew the Lease of a heartbeat."""
        ...

    async def credential(self, namespace: str, wanted: str, token: str) -> str | None:
        """The name of the Secret of this name or uid that is labelled as a credential; None when there is none."""
        ...

    async def delete(self, kind: type[Custom], key: Key, uid: str, token: str | None = None) -> None:
        """Delete a custom resource, if it is still the one of this uid."""
        ...
