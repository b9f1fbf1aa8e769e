"""A process that appends: `python -m tests.audit.appender URL KEY_FILE COUNT NAMESPACE`; 0 is without end.

It prints the number of entries that it knows to be durable, in a line of its own after each call.
"""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

from gatepass.audit.trail import Trail
from tests.audit.entries import an_entry


async def main(url: str, key_file: str, count: str, namespace: str) -> None:
    trail = Trail(url, Path(key_file))
    await trail.migrate()
    done = 0
    while not int(count) or done < int(count):
        await trail.append(
            [an_entry(done + more, at=datetime.now(UTC), namespace=namespace) for more in range(done % 3 + 1)]
        )
        done += done % 3 + 1
        print(done, flush=True)  # noqa: T201 whoever started it reads this
    await trail.close()


asyncio.run(main(*sys.argv[1:]))
