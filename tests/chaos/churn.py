"""What tenants do: sessions made, extended, shortened, stopped, deleted and left to expire."""

import http.client
import threading
import time
from collections.abc import Callable
from http import HTTPStatus

from gatepass.sandbox.kubeapi import KubeApi, KubeApiError
from tests.chaos.script import Deed
from tests.e2e.tenant import API, MERGE, in_seconds

PAUSE_SECONDS = 0.3
_OUTAGE_SECONDS = 120.0
_PASSING = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
    HTTPStatus.FORBIDDEN,  # policies that are not compiled yet, just after the API server has started
    HTTPStatus.NOT_FOUND,  # and CustomResourceDefinitions that are not served yet
}


class Churn(threading.Thread):
    """Does the deeds in their time, each until it has succeeded: outages of the API server hold tenants up, no more."""

    def __init__(self, api: KubeApi, namespace: str, deeds: list[Deed], over: Callable[[], bool]) -> None:
        super().__init__(name="churn", daemon=True)
        self._api, self._deeds, self._over = api, deeds, over
        self._path = f"{API}/namespaces/{namespace}/accesssessions"
        self.failures: list[str] = []
        self.uids: dict[str, str] = {}

    @property
    def created(self) -> int:
        """How many sessions it has made."""
        return len(self.uids)

    def run(self) -> None:
        """All of them, or until it is over."""
        began = time.monotonic()
        for deed in self._deeds:
            time.sleep(max(0.0, began + deed.at - time.monotonic()))
            if self._over():
                return
            self._try(deed)

    def _try(self, deed: Deed) -> None:
        deadline = time.monotonic() + _OUTAGE_SECONDS
        while True:
            try:
                self._do(deed)
            except KubeApiError as error:
                if self._done_already(deed, error):
                    return
                if not passes(error) or time.monotonic() > deadline:
                    self.failures.append(f"{deed.what} {deed.session}: {error}")
                    return
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() > deadline:
                    self.failures.append(f"{deed.what} {deed.session}: {error!r}")
                    return
            else:
                return
            time.sleep(PAUSE_SECONDS)

    def _do(self, deed: Deed) -> None:
        spec = dict(deed.how.get("spec", {}))
        if "ends_in" in deed.how:
            spec["notAfter"] = in_seconds(deed.how["ends_in"])
        match deed.what:
            case "create":
                item = {
                    "apiVersion": "gatepass.dev/v1alpha1",
                    "kind": "AccessSession",
                    "metadata": {"name": deed.session},
                }
                made = self._api.request("POST", self._path, {**item, "spec": spec})
                self.uids[deed.session] = made["metadata"]["uid"]
            case "edit":
                self._api.request("PATCH", f"{self._path}/{deed.session}", {"spec": spec}, MERGE)
            case "delete":
                self._api.request("DELETE", f"{self._path}/{deed.session}")

    def _done_already(self, deed: Deed, error: KubeApiError) -> bool:
        """An answer that was lost, or an end that came before what was meant to bring it."""
        if deed.what == "create" and error.status == HTTPStatus.CONFLICT:
            made = self._api.request("GET", f"{self._path}/{deed.session}")
            self.uids[deed.session] = made["metadata"]["uid"]
            return True
        if deed.what == "delete" and is_gone(error, "accesssessions.gatepass.dev"):
            return True
        return deed.what == "edit" and error.status == HTTPStatus.UNPROCESSABLE_ENTITY and "ended" in str(error)


def passes(error: KubeApiError) -> bool:
    """Is it a refusal of an API server that is still starting? It has not compiled its policies then."""
    return error.status in _PASSING or "failed to configure" in str(error)


def is_gone(error: KubeApiError, plural: str) -> bool:
    """Is the object not there, and not its whole kind, as when an API server has just started?"""
    return error.status == HTTPStatus.NOT_FOUND and f'{plural} "' in str(error)
