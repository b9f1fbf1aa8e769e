"""The few calls that the sandbox itself makes to the API server, over one kept connection.

Not the kubernetes client: that one takes 0.6 s to import, and these are set-up calls of one thread.
"""

import base64
import http.client
import json
import selectors
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from gatepass.sandbox.errors import SandboxError

FIELD_MANAGER = "gatepass-sandbox"
TIMEOUT_SECONDS = 30.0


class KubeApiError(SandboxError):
    """The API server refused; `status` is the HTTP status, the message its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class KubeApi:
    """A client of one API server with one bearer token, for one thread."""

    def __init__(self, server: str, ca: Path, token: str) -> None:
        url = urlsplit(server)
        self._host, self._port = url.hostname or "", url.port
        self._context = ssl.create_default_context(cafile=str(ca))
        self._token = token
        self._connection: http.client.HTTPSConnection | None = None
        self._plurals: dict[tuple[str, str], tuple[str, bool]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def healthy(self, path: str) -> bool:
        """Whether `path` answers 200 now; False, too, when nothing listens."""
        try:
            return self._send("GET", path, None, "application/json")[0] == http.HTTPStatus.OK
        except OSError:
            return False

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """The decoded answer. Raises KubeApiError on a status of 400 and above, OSError if there is no connection."""
        status, answer = self._send(method, path, body, content_type)
        if status >= http.HTTPStatus.BAD_REQUEST:
            try:
                message = str(json.loads(answer).get("message") or answer.decode())
            except ValueError:
                message = answer.decode(errors="replace")
            raise KubeApiError(status, f"{method} {path}: {status} {message}")
        return dict(json.loads(answer))

    def apply(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """Server-side apply, in order. Raises KubeApiError at the first that is refused."""
        for item in objects:
            path = f"{self.path_of(item)}/{item['metadata']['name']}?fieldManager={FIELD_MANAGER}&force=true"
            self.request("PATCH", path, item, "application/apply-patch+yaml")

    def path_of(self, item: Mapping[str, Any]) -> str:
        """The path of the collection of `item`, by discovery. Raises KubeApiError if its kind is not served."""
        version, kind = str(item["apiVersion"]), str(item["kind"])
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if (version, kind) not in self._plurals:
            for resource in self.request("GET", base)["resources"]:
                if "/" not in resource["name"]:
                    self._plurals[version, resource["kind"]] = (resource["name"], bool(resource["namespaced"]))
        if (version, kind) not in self._plurals:
            raise KubeApiError(404, f"the API server does not serve {kind} in {version}")
        plural, namespaced = self._plurals[version, kind]
        if namespaced:
            return f"{base}/namespaces/{item['metadata'].get('namespace', 'default')}/{plural}"
        return f"{base}/{plural}"

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, content_type: str) -> tuple[int, bytes]:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content_type, "Accept": "application/json"}
        content = None if body is None else json.dumps(body)
        try:
            return self._exchange(method, path, content, headers)
        except http.client.HTTPException as error:
            self.close()
            raise ConnectionError(f"{method} {path}: {error}") from error
        except OSError:
            self.close()
            raise

    def _exchange(self, method: str, path: str, content: str | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        if self._connection is not None and _is_dropped(self._connection):
            self.close()
        if self._connection is None:
            self._connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=TIMEOUT_SECONDS, context=self._context
            )
        self._connection.request(method, path, content, dict(headers))
        answer = self._connection.getresponse()
        return answer.status, answer.read()


def _is_dropped(kept: http.client.HTTPSConnection) -> bool:
    """Nothing is to be read before something was asked, but for an end: of an idle connection, or of the server."""
    if kept.sock is None:
        return True
    with selectors.DefaultSelector() as ready:  # select() itself knows no descriptor above 1023
        ready.register(kept.sock, selectors.EVENT_READ)
        return bool(ready.select(timeout=0))


def kubeconfig(server: str, ca: Path, user: str, token: str, namespace: str) -> dict[str, Any]:
    """A kubeconfig with everything inside it, so that it can be copied elsewhere."""
    authority = base64.b64encode(ca.read_bytes()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sandbox", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": user, "namespace": namespace}}],
        "current-context": "sandbox",
    }
