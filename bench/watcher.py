"""The floor of a burst, as a program of its own: watch sessions, and write one status to each. No operator can do less.

    python bench/watcher.py KUBECONFIG NAMESPACE STATUS_FILE

It says "watching" when it does. Nothing here comes from Gatepass; the status is the one that it would write.
"""

import asyncio
import base64
import json
import ssl
import sys
from pathlib import Path
from typing import Any

import aiohttp

AT_A_TIME = 64


async def main(config: dict[str, Any], namespace: str, status: dict[str, Any]) -> None:
    """Watch until killed."""
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    headers = {"Authorization": f"Bearer {user['token']}", "Content-Type": "application/merge-patch+json"}
    path = f"/apis/gatepass.dev/v1alpha1/namespaces/{namespace}/accesssessions"
    body = json.dumps({"status": status})
    connector = aiohttp.TCPConnector(ssl=context, limit=AT_A_TIME + 1)
    async with (
        aiohttp.ClientSession(cluster["server"], headers=headers, connector=connector, read_bufsize=2**20) as http,
        asyncio.TaskGroup() as writes,
    ):

        async def write(name: str) -> None:
            async with http.patch(f"{path}/{name}/status", data=body) as answer:
                answer.raise_for_status()
                await answer.read()

        seen: set[str] = set()
        # The API server ends a watch now and then; without a version, the next one begins with what there is.
        while True:
            async with http.get(f"{path}?watch=1", timeout=aiohttp.ClientTimeout(total=None)) as answer:
                if not seen:
                    sys.stdout.write("watching\n")
                    sys.stdout.flush()
                async for line in answer.content:
                    name = json.loads(line)["object"]["metadata"].get("name", "")
                    if name and name not in seen:
                        seen.add(name)
                        writes.create_task(write(name))


if __name__ == "__main__":
    _, kubeconfig, namespace, status = sys.argv
    asyncio.run(main(json.loads(Path(kubeconfig).read_text()), namespace, json.loads(Path(status).read_text())))
