"""Everything that is written to the API server: the engine's `Cluster` port."""

import base64
import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import structlog

from gatepass.core.binding_status import KeySecret
from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import ClusterError, ConflictError, Fence, GoneError, SecretSeen
from gatepass.core.types.binding import ApiKeyBinding, ApiKeyBindingStatus
from gatepass.core.types.common import API_VERSION, FINALIZER, Custom, Key
from gatepass.core.types.ends import SESSION_LABEL, lease_name
from gatepass.core.types.resource import PLURAL as RESOURCES
from gatepass.core.types.resource import ProtectedResource, ProtectedResourceStatus
from gatepass.core.types.session import AccessSession, AccessSessionStatus, Requester
from gatepass.kube.api import JSON, MERGE_PATCH, METADATA, TIMEOUT_SECONDS, KubeApi, path_of, version_of
from gatepass.kube.clock import CorrectedClock
from gatepass.kube.events import Events
from gatepass.kube.reviews import ACCESS_PATH, access_review, allowed
from gatepass.manifests import ENFORCED_AFTER

log = structlog.get_logger(__name__)

_ANSWER_KEPT_SECONDS: Final = 30.0
KEY_FIELD: Final = "api-key"
"""Where in its Secret an API key is."""
CLAIM_FIELD: Final = "token"
"""Where in its Secret the token of a session is that can be claimed."""


def leases_path(namespace: str = "", name: str = "") -> str:
    """The URL path of a Lease, or of all in a namespace or everywhere."""
    parts = ["/apis/coordination.k8s.io/v1", *([f"namespaces/{quote(namespace, safe='')}"] if namespace else [])]
    return "/".join([*parts, "leases", *([quote(name, safe="")] if name else [])])


def renewed_at(lease: Mapping[str, Any]) -> str | None:
    """When a Lease was renewed, in the words of whoever did it."""
    found = (lease.get("spec") or {}).get("renewTime")
    return None if found is None else str(found)


def _changed_at(binding: Mapping[str, Any]) -> datetime:
    """When the binding of a policy was made, or changed last: it may bind in more namespaces since."""
    metadata = binding["metadata"]
    managed = [each for each in metadata.get("managedFields", ()) if "time" in each and not each.get("subresource")]
    times = [metadata["creationTimestamp"], *(each["time"] for each in managed)]
    return max(datetime.fromisoformat(time) for time in times)


def _selects(match: Mapping[str, Any], namespaces: Sequence[str]) -> bool:
    """Is nothing left out of these namespaces; of all, if there are none?"""
    narrows = {key: value for key, value in match.items() if value and key not in ("matchPolicy", "resourceRules")}
    selector = narrows.pop("namespaceSelector", {})
    if narrows or selector.keys() - {"matchExpressions"}:
        return False
    return all(
        namespaces
        and (each["key"], each["operator"]) == ("kubernetes.io/metadata.name", "In")
        and set(namespaces) <= set(each["values"])
        for each in selector.get("matchExpressions", ())
    )


def _vouches(name: str, policy: Mapping[str, Any], binding: Mapping[str, Any], namespaces: Sequence[str]) -> bool:
    """Does a policy refuse what it should, wherever we serve?"""
    bound = binding.get("matchResources") or {}
    return (
        policy.get("failurePolicy", "Fail") == "Fail"
        and not policy.get("matchConditions")
        and _selects(policy["matchConstraints"], namespaces)
        and binding["policyName"] == name
        and "Deny" in binding.get("validationActions", ())
        and not bound.get("resourceRules")
        and _selects(bound, namespaces)
    )


def _secret_path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/secrets/{quote(name, safe='')}"


def _secret_seen(metadata: Mapping[str, Any]) -> SecretSeen:
    return SecretSeen(metadata["resourceVersion"], leaving="deletionTimestamp" in metadata)


class KubeCluster:
    """The cluster, as Gatepass's own account sees it.

    `policies` are the validating policies, and bindings of the same names, that vouch for who created a session in
    `namespaces`, or anywhere.
    `session_written` is called with what a session was, and the status that it has been given. Every write names the
    version of the object that it rests on: what somebody else has written since stands. What `fence` forbids is not
    written; without one nothing is forbidden, for who is alone.
    """

    def __init__(
        self,
        api: KubeApi,
        events: Events,
        clock: CorrectedClock,
        policies: Sequence[str],
        namespaces: Sequence[str] = (),
        fence: Fence = lambda _seconds: True,
    ) -> None:
        self._api = api
        self._fence = fence
        self._events = events
        self._clock = clock
        self._policies = policies
        self._namespaces = namespaces
        self._answers: dict[tuple[Requester, Key], tuple[float, bool]] = {}
        self._verified: tuple[float, datetime | None] = (float("-inf"), None)
        self.session_written: Callable[[AccessSession, AccessSessionStatus], None] = lambda _before, _status: None

    # finalizers

    async def hold(self, held: Custom) -> None:
        """Put our finalizer on the object."""
        await self._set_finalizers(held, [*held.metadata.finalizers, FINALIZER])

    async def release(self, held: Custom) -> None:
        """Take our finalizer off."""
        await self._set_finalizers(held, [name for name in held.metadata.finalizers if name != FINALIZER])

    async def _set_finalizers(self, held: Custom, finalizers: list[str]) -> None:
        path = path_of(type(held), held.metadata.namespace, held.metadata.name)
        await self._change("PATCH", path, {"metadata": {**version_of(held), "finalizers": finalizers}})

    async def _change(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if not self._fence(TIMEOUT_SECONDS):
            raise ClusterError(f"{method} {path}: another replica may lead before the call has ended")
        return await self._api.call(method, path, body, content_type=MERGE_PATCH if method == "PATCH" else JSON)

    # statuses

    async def write_session_status(self, session: AccessSession, status: AccessSessionStatus) -> AccessSession:
        """Replace the session's status."""
        updated = AccessSession.model_validate(await self._replace_status(session, status.to_json()))
        if status.phase != session.status.phase:
            # The ids lead to the calls that made and removed the rules, which are logged with AWS's request ids.
            rules = [f"{rule.target}/{rule.id}" for entry in status.resources for rule in entry.rules]
            log.info("session", session=str(session.key), phase=status.phase, rules=rules)
        self.session_written(session, status)
        return updated

    async def write_resource_status(
        self, resource: ProtectedResource, status: ProtectedResourceStatus
    ) -> ProtectedResource:
        """Replace the resource's status."""
        return ProtectedResource.model_validate(await self._replace_status(resource, status.to_json()))

    async def _replace_status(self, about: Custom, status: Mapping[str, Any]) -> dict[str, Any]:
        """By an update, which the API server takes faster than a patch; one of `/status` changes nothing else."""
        kind, metadata = type(about), about.metadata
        path = path_of(kind, metadata.namespace, metadata.name, "status")
        named = {"name": metadata.name, "namespace": metadata.namespace, **version_of(about)}
        body = {"apiVersion": API_VERSION, "kind": kind.__name__, "metadata": named, "status": status}
        return await self._change("PUT", path, body)

    async def write_binding_status(self, binding: ApiKeyBinding, status: ApiKeyBindingStatus) -> ApiKeyBinding:
        """Replace the binding's status, but for what the REST API writes of its use."""
        used = dict.fromkeys(("last_used_at", "last_used_ip"))
        before, after = (each.model_copy(update=used).to_json() for each in (binding.status, status))
        path = path_of(ApiKeyBinding, binding.metadata.namespace, binding.metadata.name, "status")
        patch = {**dict.fromkeys(before.keys() - after.keys()), **after}
        answer = await self._change("PATCH", path, {"metadata": version_of(binding), "status": patch})
        return ApiKeyBinding.model_validate(answer)

    async def delete_session(self, session: AccessSession) -> None:
        """Delete the session, if it is still the same."""
        path = path_of(AccessSession, session.metadata.namespace, session.metadata.name)
        await self._change("DELETE", path, {"preconditions": version_of(session)})

    # questions

    async def may_use(self, requester: Requester, resource: Key) -> bool:
        """Ask the API server's authorizers, at most every 30 s for each requester and resource."""
        now = self._clock.monotonic()
        asked, answer = self._answers.get((requester, resource), (float("-inf"), False))
        if now < asked + _ANSWER_KEPT_SECONDS:
            return answer
        self._answers = {key: kept for key, kept in self._answers.items() if now < kept[0] + _ANSWER_KEPT_SECONDS}
        review = access_review(requester, "use", RESOURCES, resource.namespace, resource.name)
        answer = allowed(await self._api.call("POST", ACCESS_PATH, review))
        self._answers[requester, resource] = (now, answer)
        return answer

    async def requesters_verified_since(self, *, anew: bool = False) -> datetime | None:
        """Since when all of the policies vouch for requested-by, wherever we serve; asked every 30 s."""
        now = self._clock.monotonic()
        asked, answer = self._verified
        if not anew and now < asked + _ANSWER_KEPT_SECONDS:
            return answer
        answer = await self._policies_in_force_since()
        self._verified = (now, answer)
        return answer

    async def _policies_in_force_since(self) -> datetime | None:
        made: list[datetime] = []
        base = "/apis/admissionregistration.k8s.io/v1"
        try:
            for name in self._policies:
                policy = await self._api.call("GET", f"{base}/validatingadmissionpolicies/{name}")
                binding = await self._api.call("GET", f"{base}/validatingadmissionpolicybindings/{name}")
                if not _vouches(name, policy["spec"], binding["spec"], self._namespaces):
                    return None
                made += [datetime.fromisoformat(policy["metadata"]["creationTimestamp"]), _changed_at(binding)]
        except GoneError:
            return None
        since = max(made) + ENFORCED_AFTER
        return since if since <= self._clock.now() else None

    # secrets

    async def key_secret(self, binding: ApiKeyBinding) -> KeySecret | None:
        """The Secret that the binding names; ours is one that the binding owns."""
        try:
            secret = await self._api.call("GET", self._key_path(binding))
        except GoneError:
            return None
        owners = secret["metadata"].get("ownerReferences", ())
        data = secret.get("data") or {}
        try:
            text = base64.b64decode(data.get(KEY_FIELD, ""), validate=True).decode() or None
        except ValueError:
            text = None
        return KeySecret(owned=any(owner["uid"] == binding.uid for owner in owners), text=text)

    async def write_key_secret(self, binding: ApiKeyBinding, text: str) -> None:
        """Make the Secret, owned by the binding so that it goes with it, or replace what is in it."""
        await self._write_owned_secret(binding, binding.spec.secret_name or "", {KEY_FIELD: text})

    async def write_claim_secret(self, session: AccessSession, name: str, token: str) -> None:
        """The same for the token of a session."""
        await self._write_owned_secret(session, name, {CLAIM_FIELD: token})

    async def _write_owned_secret(self, holder: Custom, name: str, texts: Mapping[str, str]) -> None:
        kind = type(holder).__name__
        owner = {"apiVersion": API_VERSION, "kind": kind, "name": holder.metadata.name, "uid": holder.uid}
        metadata = {"name": name, "ownerReferences": [{**owner, "controller": True}]}
        data = {field: base64.b64encode(text.encode()).decode() for field, text in texts.items()}
        path = _secret_path(holder.metadata.namespace, name)
        try:
            current = await self._api.call("GET", path)
        except GoneError:
            folder = _secret_path(holder.metadata.namespace, "").rstrip("/")
            await self._change("POST", folder, {"metadata": metadata, "type": "Opaque", "data": data})
            return
        if not any(each["uid"] == holder.uid for each in current["metadata"].get("ownerReferences", ())):
            raise ConflictError(f"Secret {name} belongs to somebody else")
        version = {"resourceVersion": current["metadata"]["resourceVersion"], "uid": current["metadata"]["uid"]}
        patch = {"metadata": version, "data": {**dict.fromkeys(current.get("data") or {}), **data}}
        await self._change("PATCH", path, patch)

    @staticmethod
    def _key_path(binding: ApiKeyBinding) -> str:
        return _secret_path(binding.metadata.namespace, binding.spec.secret_name or "")

    async def read(self, namespace: str, name: str) -> Mapping[str, str]:
        """The decoded data of a Secret: the providers' `Secrets` port."""
        try:
            secret = await self._api.call("GET", _secret_path(namespace, name))
        except GoneError:
            raise ProviderError(
                Failure.FORBIDDEN, "SecretNotFound", f"there is no Secret {namespace}/{name}: create it"
            ) from None
        except ClusterError as error:
            raise ProviderError(Failure.RETRY, "ApiServer", str(error)) from error
        try:
            return {key: base64.b64decode(value).decode() for key, value in (secret.get("data") or {}).items()}
        except ValueError:
            raise ProviderError(
                Failure.FORBIDDEN, "SecretInvalid", f"Secret {namespace}/{name} holds data that is not text"
            ) from None

    async def secret(self, namespace: str, name: str) -> SecretSeen | None:
        """What a Secret is; what is in it is not asked for."""
        metadata = await self._secret_metadata(namespace, name)
        return None if metadata is None else _secret_seen(metadata)

    async def hold_secret(self, namespace: str, name: str) -> SecretSeen | None:
        """Put our finalizer on a Secret, so that a namespace under deletion can still be cleaned."""
        metadata = await self._secret_metadata(namespace, name)
        if metadata is None:
            return None
        finalizers = metadata.get("finalizers", [])
        if FINALIZER not in finalizers and "deletionTimestamp" not in metadata:
            try:
                metadata = await self._set_secret_finalizers(metadata, [*finalizers, FINALIZER])
            except GoneError:
                return None
        return _secret_seen(metadata)

    async def release_secret(self, namespace: str, name: str) -> None:
        """Take our finalizer off a Secret; one that is gone needs nothing."""
        metadata = await self._secret_metadata(namespace, name)
        if metadata is not None and FINALIZER in metadata.get("finalizers", []):
            kept = [each for each in metadata["finalizers"] if each != FINALIZER]
            with contextlib.suppress(GoneError):
                await self._set_secret_finalizers(metadata, kept)

    async def _secret_metadata(self, namespace: str, name: str) -> dict[str, Any] | None:
        try:
            answer = await self._api.call("GET", _secret_path(namespace, name), accept=METADATA)
        except GoneError:
            return None
        return dict(answer["metadata"])

    async def _set_secret_finalizers(self, metadata: Mapping[str, Any], finalizers: list[str]) -> dict[str, Any]:
        patch = {"finalizers": finalizers, "resourceVersion": metadata["resourceVersion"], "uid": metadata["uid"]}
        path = _secret_path(metadata["namespace"], metadata["name"])
        return dict((await self._change("PATCH", path, {"metadata": patch}))["metadata"])

    async def namespace_goes(self, name: str) -> bool:
        """Read the namespace."""
        try:
            answer = await self._api.call("GET", f"/api/v1/namespaces/{quote(name, safe='')}")
        except GoneError:
            return True
        return "deletionTimestamp" in answer["metadata"]

    # heartbeats

    async def put_lease(self, session: AccessSession) -> None:
        """Make a Lease that goes with the session; one that is there already has its uid in its name, and is it."""
        owner = {"apiVersion": API_VERSION, "kind": "AccessSession", "name": session.metadata.name, "uid": session.uid}
        name, labels = lease_name(session.uid), {SESSION_LABEL: session.uid}
        metadata = {"name": name, "labels": labels, "ownerReferences": [owner]}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
        with contextlib.suppress(ConflictError):
            await self._change("POST", leases_path(session.metadata.namespace), body)

    async def renewed(self, session: AccessSession) -> str | None:
        """Read the session's Lease, not from a cache."""
        query = {"fieldSelector": f"metadata.name={lease_name(session.uid)}"}
        answer = await self._api.call("GET", leases_path(session.metadata.namespace), query=query)
        return next((renewed_at(lease) for lease in answer.get("items", ())), None)

    # events

    def announce(self, about: Custom, reason: str, message: str, *, warning: bool = False) -> None:
        """Write an Event soon; what it says of a resource is logged too."""
        if not isinstance(about, AccessSession):
            (log.warning if warning else log.info)(message, resource=str(about.key), reason=reason)
        self._events.add(about, reason, message, warning=warning)
