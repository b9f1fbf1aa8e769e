"""The floor of a restart, as a program of its own: list everything in pages, parse it, make the same Describes.

    KUBECONFIG=... python bench/relist.py CALLS_FILE

CALLS_FILE holds the Describe calls of a restart, as in EC2's call log. It writes JSON: how many seconds what took.
"""

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, CustomObjectsApi

from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession

_PAGE = 500
_METHODS = {
    "DescribeSecurityGroupRules": "describe_security_group_rules",
    "DescribeSecurityGroups": "describe_security_groups",
}
_KINDS: Mapping[str, type[AccessSession] | type[ProtectedResource]] = {
    "accesssessions": AccessSession,
    "protectedresources": ProtectedResource,
}


async def listed() -> tuple[float, int]:
    """Seconds for the list and the parsing, and how many objects there were."""
    await config.load_kube_config()
    found: list[AccessSession | ProtectedResource] = []
    async with ApiClient() as client:
        api = CustomObjectsApi(client)
        started = time.monotonic()
        for plural, kind in _KINDS.items():
            following: dict[str, str] = {}
            while True:
                page = await api.list_cluster_custom_object(
                    "gatepass.dev", "v1alpha1", plural, limit=_PAGE, **following
                )
                found += [kind.model_validate(item) for item in page["items"]]
                if not page["metadata"].get("continue"):
                    break
                following = {"_continue": page["metadata"]["continue"]}
        return time.monotonic() - started, len(found)


def described(calls: Sequence[Mapping[str, Any]]) -> float:
    """Seconds for the calls, one after the other by one client."""
    ec2 = boto3.client("ec2", region_name=calls[0]["region"], config=Config(retries={"total_max_attempts": 1}))
    ec2.describe_vpcs()  # connects
    started = time.monotonic()
    for call in calls:
        given = call["params"]
        filters = [{"Name": each["Name"], "Values": each["Value"]} for each in given.get("Filter", ())]
        paging = {name: kind(given[name]) for name, kind in (("NextToken", str), ("MaxResults", int)) if name in given}
        getattr(ec2, _METHODS[call["action"]])(Filters=filters, **paging)
    return time.monotonic() - started


if __name__ == "__main__":
    took, count = asyncio.run(listed())
    asked = described(json.loads(Path(sys.argv[1]).read_text()))
    sys.stdout.write(json.dumps({"list": took, "objects": count, "describes": asked}))
