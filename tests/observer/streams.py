"""What the observer hears: the API server's watches, its answers about `use`, and whether the operator is ready."""

import contextlib
import http.client
import json
import queue
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from gatepass.sandbox.kubeapi import KubeApi, KubeApiError
from tests.observer.book import Holder, Item

PATHS = {
    "sessions": "/apis/gatepass.dev/v1alpha1/accesssessions",
    "resources": "/apis/gatepass.dev/v1alpha1/protectedresources",
    "namespaces": "/api/v1/namespaces",
}
_WATCH_SECONDS = 120
_AGAIN_SECONDS = 0.2
_READY_SECONDS = 0.05
_GONE = 410
_KEPT_SECONDS = 3.0
_KEY = "gatepass:key:"
"""Begins the user name of who has created a session with a key to the REST API."""
_NOT_FOUND = 404


@dataclass(frozen=True)
class Seen:
    """An object that a watch told of."""

    kind: str
    item: Item
    gone: bool
    at: float


@dataclass(frozen=True)
class Ready:
    """The operator is ready, or no longer."""

    ready: bool
    at: float


@dataclass(frozen=True)
class Gone:
    """A watch could not go on where it was: what it should have told has to be listed."""

    at: float


@dataclass(frozen=True)
class Permitted:
    """What the API server says of `use`."""

    holder: Holder
    permitted: bool
    at: float


Heard = queue.SimpleQueue[Seen | Ready | Gone | Permitted]


class Listings:
    """Reads all objects of a kind, for the first time and when something has to be sure."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    def read(self, kind: str) -> tuple[list[Item], int]:
        """Every object, and the resource version of the listing. Raises OSError or KubeApiError in an outage."""
        answer = self._api.request("GET", PATHS[kind])
        return answer["items"], int(answer["metadata"]["resourceVersion"])


class Watch(threading.Thread):
    """Follows one kind from a resource version on; after a 410 from whatever the next listing says."""

    def __init__(self, kind: str, server: str, ca: str, token: str, version: int, heard: Heard) -> None:
        super().__init__(name=f"watch {kind}", daemon=True)
        self._kind, self._server, self._ca, self._token = kind, urlsplit(server), ca, token
        self._version, self._heard = version, heard

    def run(self) -> None:
        """Until the process ends."""
        while True:
            try:
                for event in self._events():
                    self._take(event)
            except (OSError, http.client.HTTPException, ValueError):
                time.sleep(_AGAIN_SECONDS)

    def _take(self, event: dict[str, Any]) -> None:
        item = event["object"]
        if event["type"] == "ERROR":
            if item.get("code") == _GONE:
                self._version = 0  # from the present on; the listings tell what was missed
                self._heard.put(Gone(time.time()))
            raise ValueError(item.get("message"))
        self._version = int(item["metadata"]["resourceVersion"])
        if event["type"] != "BOOKMARK":
            item["metadata"].pop("managedFields", None)  # more than half of it, where ten thousand are kept
            self._heard.put(Seen(self._kind, item, event["type"] == "DELETED", time.time()))

    def _events(self) -> Iterator[dict[str, Any]]:
        context = ssl.create_default_context(cafile=self._ca)
        connection = http.client.HTTPSConnection(
            self._server.hostname or "", self._server.port, timeout=_WATCH_SECONDS + 10, context=context
        )
        query = f"watch=1&resourceVersion={self._version}&timeoutSeconds={_WATCH_SECONDS}&allowWatchBookmarks=true"
        headers = {"Authorization": f"Bearer {self._token}"}
        with contextlib.closing(connection):
            connection.request("GET", f"{PATHS[self._kind]}?{query}", headers=headers)
            answer = connection.getresponse()
            if answer.status == _GONE:
                self._version = 0
                self._heard.put(Gone(time.time()))
            if answer.status != http.HTTPStatus.OK:
                raise OSError(f"{answer.status}")
            while line := answer.readline():
                yield json.loads(line)


class Readiness(threading.Thread):
    """Asks the operator again and again whether it is ready.

    It is from when it has said so until nobody listens any more: what it says of itself meanwhile, or that it says
    nothing, is no excuse for it.
    """

    def __init__(self, url: str, heard: Heard) -> None:
        super().__init__(name="readiness", daemon=True)
        self._url, self._heard = urlsplit(url), heard
        self._ready = False

    def run(self) -> None:
        """Until the process ends."""
        while True:
            if (ready := self._ask()) != self._ready:
                self._ready = ready
                self._heard.put(Ready(ready, time.time()))
            time.sleep(_READY_SECONDS)

    def _ask(self) -> bool:
        connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=2)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            try:
                connection.connect()
            except ConnectionError:
                return False
            if not self._ready:
                connection.request("GET", "/readyz")
                return connection.getresponse().status == http.HTTPStatus.OK
        return self._ready


class Asker(threading.Thread):
    """Asks the API server whether who created a session may `use` what it names."""

    def __init__(self, api: KubeApi, heard: Heard) -> None:
        super().__init__(name="use", daemon=True)
        self._api, self._heard = api, heard
        self._questions: queue.SimpleQueue[tuple[Holder, Item]] = queue.SimpleQueue()
        self._yes: dict[tuple[str, str], float] = {}

    def ask(self, holder: Holder, session: Item) -> None:
        """The answer will be heard."""
        self._questions.put((holder, session))

    def run(self) -> None:
        """Until the process ends."""
        while True:
            holder, session = self._questions.get()
            with contextlib.suppress(OSError, KubeApiError):  # in an outage nobody is accused
                self._heard.put(Permitted(holder, self._may(session, holder.resource), time.time()))

    def _may(self, session: Item, resource: str) -> bool:
        stamp = session["metadata"].get("annotations", {}).get("gatepass.dev/requested-by", "")
        if time.monotonic() < self._yes.get((stamp, resource), 0.0) + _KEPT_SECONDS:
            return True
        try:
            requester = json.loads(stamp)
        except ValueError:
            return False
        if requester["username"].startswith(_KEY):
            return self._opens(requester, resource)
        namespace, _, name = resource.partition("/")
        attributes = {
            "group": "gatepass.dev",
            "resource": "protectedresources",
            "verb": "use",
            "namespace": namespace,
            "name": name,
        }
        spec = {
            "user": requester["username"],
            "uid": requester.get("uid", ""),
            "groups": requester.get("groups", []),
            "resourceAttributes": attributes,
        }
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        answer = self._api.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        if answer["status"].get("allowed", False):
            self._yes[stamp, resource] = time.monotonic()
            return True
        return False

    def _opens(self, holder: Item, resource: str) -> bool:
        """May who has a key to the REST API use what its binding names?"""
        namespace, _, name = holder["username"].removeprefix(_KEY).partition("/")
        try:
            path = f"/apis/gatepass.dev/v1alpha1/namespaces/{namespace}/apikeybindings/{name}"
            binding = self._api.request("GET", path)
        except KubeApiError as error:
            if error.status == _NOT_FOUND:
                return False
            raise
        named = {f"{each.get('namespace', namespace)}/{each['name']}" for each in binding["spec"]["resources"]}
        return binding["metadata"]["uid"] == holder.get("uid") and resource in named
