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
AGAIN_SECONDS = 0.1


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
        since = ""
        # A busy API server ends watches: go on from where it was, or, if that is too long ago, from what there is now.
        while True:
            async with http.get(f"{path}?watch=1{since}", timeout=aiohttp.ClientTimeout(total=None)) as answer:
                if answer.status >= 400:
                    since = ""
                    await asyncio.sleep(AGAIN_SECONDS)
                    continue
                if not seen:
                    sys.stdout.write("watching\n")
                    sys.stdout.flush()
                async for line in answer.content:
                    event = json.loads(line)
                    metadata = event["object"]["metadata"]
                    since = f"&resourceVersion={metadata['resourceVersion']}" if event["type"] != "ERROR" else ""
                    if event["type"] != "ERROR" and metadata["name"] not in seen:
                        seen.add(metadata["name"])
                        writes.create_task(write(metadata["name"]))


if __name__ == "__main__":
    _, kubeconfig, namespace, status = sys.argv
    asyncio.run(main(json.loads(Path(kubeconfig).read_text()), namespace, json.loads(Path(status).read_text())))
