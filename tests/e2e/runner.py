"""A runner outside of the cluster: it beats by patching the session's Lease until it is killed.

`python -m tests.e2e.runner SERVER CA NAMESPACE LEASE SECONDS`; the token is in RUNNER_TOKEN. It says `beat` after each.
"""

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from gatepass.sandbox.kubeapi import KubeApi, KubeApiError

MERGE = "application/merge-patch+json"


def say(what: str) -> None:
    """A line for the test."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def main(server: str, ca: str, namespace: str, lease: str, seconds: str) -> None:
    """Beat for ever; an API server that does not answer is asked again."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{lease}"
    while True:
        renewed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        try:
            with KubeApi(server, Path(ca), os.environ["RUNNER_TOKEN"]) as api:
                api.request("PATCH", path, {"spec": {"renewTime": renewed}}, MERGE)
        except (OSError, KubeApiError) as error:
            say(f"failed: {error}")
        else:
            say("beat")
        time.sleep(float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
