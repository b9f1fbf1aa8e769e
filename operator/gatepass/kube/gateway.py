"""The REST API's way to the API server: the `Gateway` port."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from gatepass.core.types.common import API_VERSION, Custom, Key
from gatepass.core.types.session import Requester
from gatepass.kube.api import MERGE_PATCH, KubeApi, path_of, version_of
from gatepass.kube.cluster import leases_path
from gatepass.kube.reviews import ACCESS_PATH, TOKEN_PATH, access_review, allowed, owner, token_review

CREDENTIAL_LABEL: Final = "gatepass.dev/credential"


class KubeGateway:
    """Asks and writes as Gatepass's own account by `own`, or as the owner of a token by `bare`.

    The second has no credentials at all: a client certificate would win over the token that is passed on.
    """

    def __init__(self, own: KubeApi, bare: KubeApi) -> None:
        self._api = own
        self._bare = bare

    def _by(self, token: str | None) -> KubeApi:
        return self._api if token is None else self._bare

    async def who(self, token: str) -> Requester | None:
        """Ask the API server whose token it is."""
        return owner(await self._api.answer("POST", TOKEN_PATH, token_review(token)))

    async def may(self, who: Requester, verb: str, plural: str, namespace: str, name: str = "") -> bool:
        """Ask the API server's authorizers."""
        return allowed(await self._api.answer("POST", ACCESS_PATH, access_review(who, verb, plural, namespace, name)))

    async def create(self, kind: type[Custom], body: Mapping[str, Any], token: str | None = None) -> dict[str, Any]:
        """Create a custom resource."""
        whole = {"apiVersion": API_VERSION, "kind": kind.__name__, **body}
        path = path_of(kind, body["metadata"]["namespace"])
        return await self._by(token).answer("POST", path, whole, query={"fieldValidation": "Strict"}, token=token)

    async def patch(
        self, kind: type[Custom], key: Key, body: Mapping[str, Any], token: str | None = None
    ) -> dict[str, Any]:
        """Patch a custom resource."""
        path = path_of(kind, key.namespace, key.name)
        return await self._by(token).answer("PATCH", path, body, content_type=MERGE_PATCH, token=token)

    async def patch_status(
        self, kind: type[Custom], key: Key, body: Mapping[str, Any], only: Custom | None = None
    ) -> dict[str, Any]:
        """Patch its status."""
        path = path_of(kind, key.namespace, key.name, "status")
        whole = {"metadata": {} if only is None else version_of(only), "status": body}
        return await self._api.answer("PATCH", path, whole, content_type=MERGE_PATCH)

    async def renew(self, lease: Key, at: datetime, token: str | None = None) -> None:
        """Patch the Lease."""
        body = {"spec": {"renewTime": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}}
        await self._by(token).answer("PATCH", leases_path(*lease), body, content_type=MERGE_PATCH, token=token)

    async def credential(self, namespace: str, wanted: str, token: str) -> str | None:
        """Look among the Secrets that the owner of the token may list."""
        path = f"/api/v1/namespaces/{namespace}/secrets"
        query = {"labelSelector": CREDENTIAL_LABEL}
        found = await self._bare.answer("GET", path, query=query, token=token)
        metadata = (secret["metadata"] for secret in found.get("items", ()))
        return next((each["name"] for each in metadata if wanted in (each["name"], each["uid"])), None)

    async def delete(self, kind: type[Custom], key: Key, uid: str, token: str | None = None) -> None:
        """Delete a custom resource."""
        path = path_of(kind, key.namespace, key.name)
        await self._by(token).answer("DELETE", path, {"preconditions": {"uid": uid}}, token=token)
