"""What tenants do: sessions made, extended, shortened, stopped, deleted and left to expire, all drawn from a seed."""

import heapq
import http.client
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from gatepass.sandbox.kubeapi import KubeApi, KubeApiError
from tests.e2e.tenant import API, MERGE, in_seconds

_PAUSE_SECONDS = 0.3
_OUTAGE_SECONDS = 120.0
_PASSING = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
    HTTPStatus.FORBIDDEN,  # policies that are not compiled yet, just after the API server has started
    HTTPStatus.NOT_FOUND,  # and CustomResourceDefinitions that are not served yet
}


@dataclass(frozen=True, order=True)
class Deed:
    """One thing that is done, so many seconds after the beginning."""

    at: float
    number: int
    session: str
    what: str
    how: dict[str, Any] = field(compare=False)


def drawn(
    lot: random.Random, sessions: int, per_second: float, names: Iterator[str], resources: list[str]
) -> list[Deed]:
    """The whole script, in its order."""
    deeds: list[Deed] = []
    numbers = itertools.count()

    def add(at: float, name: str, what: str, **how: Any) -> None:
        heapq.heappush(deeds, Deed(at, next(numbers), name, what, how))

    at = 0.0
    for name in itertools.islice(names, sessions):
        at += lot.expovariate(per_second)
        chosen = lot.sample(resources, 2 if lot.random() < 0.15 else 1)
        address = f"203.0.113.{lot.randrange(24)}/32"
        life, later = lot.random(), at + lot.uniform(0.2, 8.0)
        spec: dict[str, Any] = {"resources": [{"name": each} for each in chosen], "source": {"cidrs": [address]}}
        if life < 0.35:
            add(at, name, "create", spec=spec, ends_in=lot.uniform(2.0, 9.0))
        else:
            add(at, name, "create", spec={**spec, "duration": "1m" if life < 0.5 else "1h"})
        if 0.35 <= life < 0.5:
            add(at + lot.uniform(0.2, 4.0), name, "edit", spec={"duration": "2m"})
        if 0.35 <= life < 0.7:
            add(later + 4.0, name, "edit", spec={"stop": True})
        elif 0.7 <= life < 0.88:
            add(later, name, "delete")
        elif life >= 0.88:
            add(later, name, "edit", ends_in=lot.uniform(0.5, 4.0))
    return [heapq.heappop(deeds) for _ in range(len(deeds))]


class Churn(threading.Thread):
    """Does the deeds in their time, each until it has succeeded: outages of the API server hold tenants up, no more."""

    def __init__(self, api: KubeApi, namespace: str, deeds: list[Deed], over: Callable[[], bool]) -> None:
        super().__init__(name="churn", daemon=True)
        self._api, self._deeds, self._over = api, deeds, over
        self._path = f"{API}/namespaces/{namespace}/accesssessions"
        self.failures: list[str] = []
        self.created = 0

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
                if not _passes(error) or time.monotonic() > deadline:
                    self.failures.append(f"{deed.what} {deed.session}: {error}")
                    return
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() > deadline:
                    self.failures.append(f"{deed.what} {deed.session}: {error!r}")
                    return
            else:
                self.created += deed.what == "create"
                return
            time.sleep(_PAUSE_SECONDS)

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
                self._api.request("POST", self._path, {**item, "spec": spec})
            case "edit":
                self._api.request("PATCH", f"{self._path}/{deed.session}", {"spec": spec}, MERGE)
            case "delete":
                self._api.request("DELETE", f"{self._path}/{deed.session}")

    def _done_already(self, deed: Deed, error: KubeApiError) -> bool:
        """An answer that was lost, or an end that came before what was meant to bring it."""
        if deed.what == "create" and error.status == HTTPStatus.CONFLICT:
            self.created += 1
            return True
        if deed.what == "delete" and error.status == HTTPStatus.NOT_FOUND:
            return "accesssessions.gatepass.dev" in str(error)
        return deed.what == "edit" and error.status == HTTPStatus.UNPROCESSABLE_ENTITY and "ended" in str(error)


def _passes(error: KubeApiError) -> bool:
    """Is it a refusal of an API server that is still starting? It has not compiled its policies then."""
    return error.status in _PASSING or "failed to configure" in str(error)
