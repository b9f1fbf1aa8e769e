"""An API server that keeps objects as JSON, with versions, preconditions, finalizers and pages as the real one has.

Every error is what `KubeApi` would make of the real answer. Objects are never changed, only replaced.
"""

import itertools
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from gatepass.core.ports import ClusterError, ConflictError, GoneError
from gatepass.core.types.common import FINALIZER, REQUESTED_BY, format_time

Json = dict[str, Any]
SESSIONS: Final = "accesssessions"
RESOURCES: Final = "protectedresources"
NAMESPACES: Final = "namespaces"
JOBS: Final = "jobs"
LEASES: Final = "leases"
KINDS: Final = (NAMESPACES, RESOURCES, SESSIONS)
_PREFIX: Final = "/apis/gatepass.dev/v1alpha1/"
_LEASES: Final = "/apis/coordination.k8s.io/v1/"
_POLICIES: Final = "/apis/admissionregistration.k8s.io/v1/"
_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_PAGE: Final = 25
"""Small, so that listings take several calls, between which things happen."""
ALICE: Final = '{"username":"alice","uid":"1","groups":["ci"]}'
_DAWN: Final = "2026-01-01T00:00:00Z"

Id = tuple[str, str, str]
"""Plural, namespace and name."""
Watcher = Callable[[str, str, Json], None]


class ApiServer:
    """`changed` is called with the kind and the object before and after, whenever one has changed."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._objects: dict[Id, Json] = {}
        self._versions = itertools.count(1000)
        self._uids = itertools.count(1)
        self._pages: dict[str, list[Json]] = {}
        self._tokens = itertools.count(1)
        self.watchers: list[Watcher] = []
        self.changed: Callable[[str, Json | None, Json | None], None] = lambda *_: None
        self.writes = 0

    # as users and controllers ask

    def get(self, plural: str, namespace: str, name: str) -> Json:
        """The object; raises GoneError."""
        try:
            return self._objects[plural, namespace, name]
        except KeyError:
            raise GoneError(f"{plural} {namespace}/{name} not found") from None

    def every(self, plural: str) -> list[Json]:
        """All objects of a kind."""
        return [item for (kind, _, _), item in self._objects.items() if kind == plural]

    def create(self, plural: str, namespace: str, name: str, spec: Json | None = None, **metadata: Any) -> Json:
        """Create as admission lets it in; raises ConflictError when the name is taken."""
        if (plural, namespace, name) in self._objects:
            raise ConflictError(f"{plural} {namespace}/{name} already exists")
        meta = {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{next(self._uids):04d}-{name}",
            "generation": 1,
            "creationTimestamp": format_time(self._now()),
            **metadata,
        }
        if plural == SESSIONS:
            meta["annotations"] = {REQUESTED_BY: ALICE}
        made = {"metadata": meta} if spec is None else {"metadata": meta, "spec": spec}
        return self._store("ADDED", plural, None, made)

    def edit(self, plural: str, namespace: str, name: str, spec: Json) -> Json:
        """Merge into the spec, as `kubectl patch` does; raises ClusterError for what the CRD's rules refuse."""
        before = self.get(plural, namespace, name)
        after = {**before["spec"], **spec}
        if plural == SESSIONS:
            _check_session(before, after)
        if after == before["spec"]:
            return before
        return self._store("MODIFIED", plural, before, {**before, "metadata": _older(before), "spec": after})

    def delete(self, plural: str, namespace: str, name: str, uid: str | None = None) -> None:
        """Delete, or mark for deletion what finalizers hold."""
        before = self.get(plural, namespace, name)
        if uid is not None and uid != before["metadata"]["uid"]:
            raise ConflictError("the UID in the precondition does not match")
        if not before["metadata"].get("finalizers"):
            self._remove(plural, before)
        elif "deletionTimestamp" not in before["metadata"]:
            metadata = {**_older(before), "deletionTimestamp": format_time(self._now())}
            self._store("MODIFIED", plural, before, {**before, "metadata": metadata})

    def yank(self, plural: str, namespace: str, name: str) -> None:
        """Somebody who may takes off the finalizers and deletes."""
        before = self.get(plural, namespace, name)
        self._remove(plural, before)

    # as Gatepass asks

    def request(self, method: str, path: str, body: Mapping[str, Any] | None, query: Mapping[str, str] | None) -> Json:
        """One request and its answer."""
        if path == _REVIEWS:
            return {"status": {"allowed": True}}
        if path.startswith(_POLICIES):
            name = path.rpartition("/")[2]
            spec = {"failurePolicy": "Fail", "matchConstraints": {}, "policyName": name, "validationActions": ["Deny"]}
            return {"metadata": {"creationTimestamp": _DAWN}, "spec": spec}
        plural, namespace, name, subresource = parse_path(path)
        if plural == LEASES:
            return self._lease(namespace, body, query or {})
        if method == "GET":
            return self._list(plural, dict(query or {})) if name is None else self.get(plural, namespace, name)
        self.writes += 1
        assert name is not None
        if method == "DELETE":
            self.delete(plural, namespace, name, (body or {}).get("preconditions", {}).get("uid"))
            return {}
        return self._update(plural, namespace, name, subresource, body or {}, whole=method == "PUT")

    def _lease(self, namespace: str, body: Mapping[str, Any] | None, query: Mapping[str, str]) -> Json:
        """Gatepass makes one, or reads one."""
        if body is None:
            name = query["fieldSelector"].removeprefix("metadata.name=")
            return {"items": [item for item in self.every(LEASES) if item["metadata"]["name"] == name]}
        self.writes += 1
        given = body["metadata"]
        owners = {"labels": given["labels"], "ownerReferences": given["ownerReferences"]}
        return self.create(LEASES, namespace, given["name"], {}, **owners)

    def renew(self, namespace: str, name: str, at: str) -> None:
        """A runner patches its Lease."""
        before = self.get(LEASES, namespace, name)
        self._store("MODIFIED", LEASES, before, {**before, "spec": {"renewTime": at}})

    def _list(self, plural: str, query: dict[str, str]) -> Json:
        token = query.get("continue")
        items = self._pages.pop(token) if token is not None else self.every(plural)
        page, rest = items[:_PAGE], items[_PAGE:]
        if not rest:
            return {"items": page, "metadata": {"resourceVersion": str(next(self._versions))}}
        following = f"page-{next(self._tokens)}"
        self._pages[following] = rest
        return {"items": page, "metadata": {"continue": following}}

    def _update(
        self,
        plural: str,
        namespace: str,
        name: str,
        subresource: str | None,
        body: Mapping[str, Any],
        *,
        whole: bool,
    ) -> Json:
        before = self.get(plural, namespace, name)
        given = dict(body.get("metadata", {}))
        for field in ("uid", "resourceVersion"):
            if given.pop(field, before["metadata"][field]) != before["metadata"][field]:
                raise ConflictError(f"the {field} in the request does not match")
        if subresource == "status":
            status = _merged({} if whole else before.get("status", {}), body["status"])
            after = {**before, "status": status}
        else:
            assert set(given) == {"finalizers"}, "Gatepass patches nothing else"
            after = {**before, "metadata": {**before["metadata"], "finalizers": list(given["finalizers"])}}
        if after == before:
            return before
        finalizers = after["metadata"].get("finalizers", [])
        if "deletionTimestamp" in before["metadata"]:
            if set(finalizers) - set(before["metadata"].get("finalizers", [])):
                raise ClusterError("422: no new finalizers can be added if the object is being deleted")
            if not finalizers:
                return self._remove(plural, after)
        return self._store("MODIFIED", plural, before, after)

    # keeping

    def _store(self, event: str, plural: str, before: Json | None, after: Json) -> Json:
        after = {**after, "metadata": {**after["metadata"], "resourceVersion": str(next(self._versions))}}
        metadata = after["metadata"]
        self._objects[plural, metadata.get("namespace", ""), metadata["name"]] = after
        self.changed(plural, before, after)
        for watcher in tuple(self.watchers):
            watcher(plural, event, after)
        return after

    def _remove(self, plural: str, last: Json) -> Json:
        last = {**last, "metadata": {**last["metadata"], "resourceVersion": str(next(self._versions))}}
        del self._objects[plural, last["metadata"].get("namespace", ""), last["metadata"]["name"]]
        self.changed(plural, last, None)
        for watcher in tuple(self.watchers):
            watcher(plural, "DELETED", last)
        return last


def held(**metadata: Any) -> Json:
    """Metadata of what admission has put our finalizer on."""
    return {"finalizers": [FINALIZER], **metadata}


def _older(before: Json) -> Json:
    """The metadata of a new generation."""
    return {**before["metadata"], "generation": before["metadata"]["generation"] + 1}


def _merged(before: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(before) if isinstance(before, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _check_session(before: Json, spec: Json) -> None:
    """The rules of the CRD about change."""
    old = before["spec"]
    if spec.get("notAfter", "9") > old.get("notAfter", "9"):
        raise ClusterError("422: spec.notAfter may only move earlier")
    if old.get("stop") and not spec.get("stop"):
        raise ClusterError("422: spec.stop may not be set back")
    final = any(spec.get(field) != old.get(field) for field in ("duration", "notAfter", "reason"))
    if "endedAt" in before.get("status", {}) and final:
        raise ClusterError("422: spec is final once status.endedAt is set")


def parse_path(path: str) -> tuple[str, str, str | None, str | None]:
    """Plural, namespace, name and subresource of a path."""
    if path.startswith("/api/v1/namespaces"):
        parts = path.removeprefix("/api/v1/").split("/")
        if len(parts) == 4:
            return parts[2], parts[1], parts[3], None
        return parts[0], "", (parts[1] if len(parts) > 1 else None), None
    parts = path.removeprefix(_PREFIX).removeprefix(_LEASES).split("/")
    namespace = ""
    if parts[0] == NAMESPACES:
        namespace, parts = parts[1], parts[2:]
    name = parts[1] if len(parts) > 1 else None
    return parts[0], namespace, name, (parts[2] if len(parts) > 2 else None)
