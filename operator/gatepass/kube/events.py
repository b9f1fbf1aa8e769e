"""Events for people: after the fact, rate limited, dropped rather than in anybody's way."""

import asyncio
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from gatepass.core.ports import ClusterError, GoneError
from gatepass.core.types.common import API_VERSION, Custom, format_time
from gatepass.kube.api import KubeApi

log = structlog.get_logger(__name__)

_KEPT: Final = 2000
_PER_SECOND: Final = 20
_LONGEST: Final = 1024
"""The API server refuses an Event with a longer note."""
_LONGEST_NAME: Final = 200
"""With what is added to it, the API server takes it as the name of an Event."""


class Events:
    """Writes Events in order, at most twenty a second; what does not fit into the line is dropped, the oldest first."""

    def __init__(self, api: KubeApi, component: str) -> None:
        self._api = api
        self._component = component
        self._line: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._some = asyncio.Event()
        self._last = 0

    def add(self, about: Custom, reason: str, message: str, *, warning: bool) -> None:
        """Put an Event into the line."""
        self._last = max(time.time_ns(), self._last + 1)
        now = format_time(datetime.fromtimestamp(self._last // 10**9, UTC))
        # kubectl sorts by whole seconds, and leaves those of one second in the order of their names.
        name = f"{about.metadata.name[:_LONGEST_NAME].rstrip('-.')}.{self._last:x}"
        self._line.append(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": name, "namespace": about.metadata.namespace},
                "involvedObject": {
                    "apiVersion": API_VERSION,
                    "kind": type(about).__name__,
                    "name": about.metadata.name,
                    "namespace": about.metadata.namespace,
                    "uid": about.uid,
                    "resourceVersion": about.metadata.resource_version,
                },
                "type": "Warning" if warning else "Normal",
                "reason": reason,
                "message": message[:_LONGEST],
                "source": {"component": self._component},
                "firstTimestamp": now,
                "lastTimestamp": now,
                "count": 1,
            }
        )
        self._some.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._some.wait()
            while self._line:
                await asyncio.sleep(1 / _PER_SECOND)  # first: what an Event tells of is only just on its way to people
                event = self._line.popleft()
                namespace = event["metadata"]["namespace"]
                try:
                    await self._api.call("POST", f"/api/v1/namespaces/{namespace}/events", event)
                except (ClusterError, GoneError) as error:
                    # In a namespace under deletion nothing can be created; an Event is not worth a second try.
                    log.debug("event dropped", reason=event["reason"], error=str(error))
            self._some.clear()
