"""Times what happens to sessions, by the API server's own watch through kubectl."""

import json
import subprocess
import threading
import time
from types import TracebackType
from typing import Any, Self

_START_SECONDS = 15.0


class Watch:
    """The moments at which sessions of a namespace were seen for the first time, and seen Ready."""

    def __init__(self, namespace: str) -> None:
        # The API server ends the list of what is there already by a bookmark: from then on nothing is missed.
        self._path = (
            f"/apis/gatepass.dev/v1alpha1/namespaces/{namespace}/accesssessions?watch=true"
            "&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
        )
        self._created: dict[str, float] = {}
        self._ready: dict[str, float] = {}
        self._changed = threading.Condition()
        self._listening = False

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(["kubectl", "get", "--raw", self._path], stdout=subprocess.PIPE)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        with self._changed:
            self._changed.wait_for(lambda: self._listening, _START_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def ready_seconds(self, name: str, limit: float) -> float | None:
        """How long after its creation a session was Ready; None if it is not within `limit` seconds from now."""
        with self._changed:
            if not self._changed.wait_for(lambda: name in self._ready, limit) or name not in self._created:
                return None
            return self._ready[name] - self._created[name]

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 Popen was asked for a pipe
        with self._process.stdout as lines:
            for line in lines:
                at = time.monotonic()
                event = json.loads(line)
                with self._changed:
                    self._take(event["type"], event["object"], at)
                    self._changed.notify_all()

    def _take(self, kind: str, session: dict[str, Any], at: float) -> None:
        if kind == "BOOKMARK":
            self._listening = True
        elif kind in ("ADDED", "MODIFIED"):
            name = session["metadata"]["name"]
            self._created.setdefault(name, at)
            conditions = session.get("status", {}).get("conditions", [])
            if any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions):
                self._ready.setdefault(name, at)
