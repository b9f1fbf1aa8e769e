"""A namespace of the sandbox, and somebody who works in it."""

import base64
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from gatepass.sandbox.cloud import REGION
from gatepass.sandbox.kubeapi import KubeApi, KubeApiError

API = "/apis/gatepass.dev/v1alpha1"
MERGE = "application/merge-patch+json"
PATIENCE_SECONDS, PAUSE_SECONDS = 40.0, 0.02
ADDRESS = "203.0.113.7/32"
SESSION, RESOURCE = "accesssessions", "protectedresources"

T = TypeVar("T")


def wait_for(
    ask: Callable[[], T], what: str = "it", seconds: float = PATIENCE_SECONDS, pause: float = PAUSE_SECONDS
) -> T:
    """Ask until the answer is true, and give it; fails the test when it takes too long."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"{what} did not come true in time"
        time.sleep(pause)
    return answer


def delete_all(api: KubeApi, path: str) -> None:
    """One by one: hundreds at once take a slow API server longer than it gives a request."""
    for item in api.request("GET", path)["items"]:
        try:
            api.request("DELETE", f"{path}/{item['metadata']['name']}")
        except KubeApiError as error:
            if error.status != 404:  # it has gone by itself
                raise


def wait_for_the_time(text: str) -> None:
    """Wait until it is that late."""
    wait_for(lambda: datetime.now(UTC) > datetime.fromisoformat(text.replace("Z", "+00:00")), f"it is {text}")


def condition(item: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A condition of an object; empty when it is not there."""
    found = item.get("status", {}).get("conditions", ())
    return next((each for each in found if each["type"] == kind), {})


def in_seconds(seconds: float) -> str:
    """That far from now, as Kubernetes writes times."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Tenant:
    """A cluster admin at work in one namespace; at the end its objects have to go within `end_seconds`."""

    end_seconds = PATIENCE_SECONDS

    def __init__(self, api: KubeApi, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    def path(self, plural: str, name: str = "") -> str:
        """Where objects of a kind are."""
        return f"{API}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    # objects

    def resource(
        self,
        *groups: str,
        name: str = "db",
        credentials: Mapping[str, Any] | None = None,
        ports: tuple[int, ...] = (5432,),
        **spec: Any,
    ) -> str:
        """Create a ProtectedResource, and wait until its status says something."""
        aws = {"region": REGION, "securityGroups": list(groups)}
        aws.update({} if credentials is None else {"credentials": dict(credentials)})
        item = {"apiVersion": "gatepass.dev/v1alpha1", "kind": "ProtectedResource", "metadata": {"name": name}}
        self.create({**item, "spec": {"aws": aws, "ports": [{"port": port} for port in ports], **spec}})
        wait_for(lambda: condition(self.get(RESOURCE, name), "Ready"), f"a status of {name}")
        return name

    def session(self, *resources: str | Mapping[str, str], name: str = "it-1", **more: Any) -> str:
        """Create an AccessSession; see `session_body`."""
        self.create(self.session_body(*resources, name=name, **more))
        return name

    def session_body(
        self,
        *resources: str | Mapping[str, str],
        name: str = "it-1",
        cidrs: tuple[str, ...] = (ADDRESS,),
        metadata: Mapping[str, Any] | None = None,
        **spec: Any,
    ) -> dict[str, Any]:
        """An AccessSession, for the resource `db` unless others are named."""
        named = [{"name": each} if isinstance(each, str) else dict(each) for each in resources or ("db",)]
        return {
            "apiVersion": "gatepass.dev/v1alpha1",
            "kind": "AccessSession",
            "metadata": {"name": name, **(metadata or {})},
            "spec": {"resources": named, "source": {"cidrs": list(cidrs)}, **spec},
        }

    def create(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object of ours, as `kubectl create` does."""
        plural = SESSION if item["kind"] == "AccessSession" else RESOURCE
        return self.api.request("POST", f"{self.path(plural)}?fieldValidation=Strict", item)

    def create_soon(self, item: Mapping[str, Any]) -> None:
        """The same when it depends on a policy changed a moment ago, which admission learns of by a watch."""

        def created() -> bool:
            try:
                self.create(item)
            except KubeApiError as error:
                if error.status != 422:
                    raise
                return False
            return True

        wait_for(created, "admission learns of the policy")

    def default_account(self) -> None:
        """The service account that pods need, which a controller makes at some time."""
        try:
            path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts"
            self.api.request("POST", path, {"metadata": {"name": "default"}})
        except KubeApiError as error:
            if error.status != 409:  # the controller was faster
                raise

    def secret(self, name: str, **values: str) -> str:
        """Create a Secret."""
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        self.api.request(
            "POST", f"/api/v1/namespaces/{self.namespace}/secrets", {"metadata": {"name": name}, "data": data}
        )
        return name

    def get_secret(self, name: str) -> dict[str, Any]:
        """Read a Secret."""
        return self.api.request("GET", f"/api/v1/namespaces/{self.namespace}/secrets/{name}")

    def has_secret(self, name: str) -> bool:
        """Is the Secret there, be it only for a finalizer?"""
        listed = self.api.request("GET", f"/api/v1/namespaces/{self.namespace}/secrets")["items"]
        return name in {each["metadata"]["name"] for each in listed}

    def delete_secret(self, name: str) -> None:
        """Delete a Secret, without waiting."""
        self.api.request("DELETE", f"/api/v1/namespaces/{self.namespace}/secrets/{name}")

    def label(self, **labels: str) -> None:
        """Set labels of the namespace."""
        self.api.request("PATCH", f"/api/v1/namespaces/{self.namespace}", {"metadata": {"labels": labels}}, MERGE)

    def events(self, name: str) -> list[str]:
        """The Events about an object, as `Reason: message`, in their order."""
        found = self.api.request("GET", f"/api/v1/namespaces/{self.namespace}/events")["items"]
        about = [each for each in found if each["involvedObject"]["name"] == name]
        return [
            f"{each['reason']}: {each.get('message', '')}"
            for each in sorted(about, key=lambda each: int(each["metadata"]["resourceVersion"]))
        ]

    def get(self, plural: str, name: str) -> dict[str, Any]:
        """Read an object."""
        return self.api.request("GET", self.path(plural, name))

    def exists(self, plural: str, name: str) -> bool:
        """Is it there?"""
        try:
            self.get(plural, name)
        except KubeApiError as error:
            if error.status != 404:
                raise
            return False
        return True

    def patch(self, plural: str, name: str, **change: Any) -> dict[str, Any]:
        """A merge patch."""
        return self.api.request("PATCH", self.path(plural, name), change, MERGE)

    def edit(self, name: str, **spec: Any) -> dict[str, Any]:
        """A change to a session's spec."""
        return self.patch(SESSION, name, spec=spec)

    def delete(self, plural: str, name: str) -> None:
        """Delete an object, without waiting."""
        self.api.request("DELETE", self.path(plural, name))

    def delete_namespace(self) -> None:
        """Delete the namespace, without waiting."""
        self.api.request("DELETE", f"/api/v1/namespaces/{self.namespace}")

    def namespace_exists(self) -> bool:
        """Is the namespace still there?"""
        names = self.api.request("GET", "/api/v1/namespaces")["items"]
        return any(each["metadata"]["name"] == self.namespace for each in names)

    def leave(self) -> None:
        """Delete everything; waits for our objects, as the namespace controller takes 5 s for the namespace."""
        for plural in (SESSION, RESOURCE):
            delete_all(self.api, self.path(plural))
        gone = "the end of all objects"
        wait_for(lambda: not any(self.listed(plural) for plural in (SESSION, RESOURCE)), gone, self.end_seconds)
        if self.namespace_exists():
            self.delete_namespace()

    def listed(self, plural: str) -> list[dict[str, Any]]:
        """All objects of a kind."""
        return list(self.api.request("GET", self.path(plural))["items"])

    def phases(self) -> set[str | None]:
        """Those of all sessions; None for one without a status."""
        return {each.get("status", {}).get("phase") for each in self.listed(SESSION)}

    # waiting

    def until(self, plural: str, name: str, true: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """Poll an object until something holds of it; its last state is told when it never does."""
        last: dict[str, Any] = {}

        def asked() -> dict[str, Any] | None:
            last.update(item=self.get(plural, name))
            return last["item"] if true(last["item"]) else None

        try:
            return wait_for(asked)
        except AssertionError:
            raise AssertionError(f"{name}: never {what}; its status is {last['item'].get('status')}") from None

    def until_phase(self, name: str, *phases: str) -> dict[str, Any]:
        """Wait for a session's phase."""
        return self.until(SESSION, name, lambda item: item.get("status", {}).get("phase") in phases, f"in {phases}")

    def until_condition(
        self, plural: str, name: str, kind: str, status: str = "True", told: str = ""
    ) -> dict[str, Any]:
        """Wait for a condition that is about the present spec; answers the condition."""

        def holds(item: dict[str, Any]) -> bool:
            found = condition(item, kind)
            fresh = found.get("observedGeneration") == item["metadata"]["generation"]
            return fresh and found["status"] == status and told in found["message"]

        return condition(self.until(plural, name, holds, f"{kind}={status} {told}"), kind)

    def until_part(self, name: str, resource: str, state: str, told: str = "") -> dict[str, Any]:
        """Wait for what a session's status says of one resource."""

        def holds(_: dict[str, Any]) -> bool:
            part = self.part(name, resource)
            return part.get("state") == state and told in part.get("message", "")

        self.until(SESSION, name, holds, f"{resource} {state} {told}")
        return self.part(name, resource)

    def until_gone(self, plural: str, name: str) -> None:
        """Wait for the end of an object."""
        wait_for(lambda: not self.exists(plural, name), f"the end of {name}")

    def until_stopped(self, name: str) -> dict[str, Any]:
        """Stop a session and wait until it is closed."""
        self.edit(name, stop=True)
        return self.until_phase(name, "Cancelled")

    def part(self, name: str, resource: str = "db") -> dict[str, Any]:
        """What a session's status says of one resource."""
        entries = self.get(SESSION, name).get("status", {}).get("resources", ())
        return next((entry for entry in entries if entry["name"] == resource), {})
