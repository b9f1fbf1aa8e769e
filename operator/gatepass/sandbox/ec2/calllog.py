"""The call log: who called what, when, and what came of it; kept in memory and written as JSON lines."""

import json
from collections import deque
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

KEPT = 200_000


class CallLog:
    """Numbered entries from 1 on; the last KEPT are readable, all are in the file at `path`."""

    def __init__(self, path: Path) -> None:
        self._entries: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._file = path.open("a", buffering=1)
        self._count = 0

    def add(self, arrived: datetime, seconds: float, entry: dict[str, Any]) -> None:
        """Append one call that arrived then and took so long until its answer was ready."""
        self._count += 1
        kept = {
            "seq": self._count,
            "time": arrived.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "ms": round(seconds * 1000, 2),
            **{name: value for name, value in entry.items() if value not in (None, "", [], {})},
        }
        self._entries.append(kept)
        self._file.write(json.dumps(kept, separators=(",", ":")) + "\n")

    def since(self, seq: int) -> tuple[list[dict[str, Any]], int]:
        """The entries after `seq`, and the number of the last one there is."""
        skip = max(0, len(self._entries) - (self._count - seq))
        return list(islice(self._entries, skip, None)), self._count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
