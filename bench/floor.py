"""The floors: the least that must be done, done bare, under the same admission policies and throttles."""

import itertools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from bench import load
from bench.api import MERGE_PATCH, SESSIONS, Api
from bench.load import Opening
from bench.records import THROTTLED
from bench.scene import PORT, Scene, address, admin, ec2_client, new_group, session_name
from gatepass.core.rules import Rule
from gatepass.core.status import PresentRule, ResourceView, session_status
from gatepass.core.types.common import REQUESTED_BY
from gatepass.core.types.session import AccessSession, Requester
from gatepass.sandbox.environment import Sandbox
from gatepass.sandbox.processes import Process

OWNER_TAG = "gatepass.dev/owner"
READY_SECONDS = 10.0
REPLAY_REGION = "eu-north-1"
PAUSE_SECONDS = 0.25


@dataclass(frozen=True)
class Steps:
    """One session opened bare, in seconds."""

    create: float
    authorize: float
    status: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.create + self.authorize + self.status


class Bare:
    """Opens one session after the other as `people` and `account`, and tidies up outside of the measured time."""

    def __init__(self, sandbox: Sandbox, scene: Scene, people: Api, account: Api) -> None:
        self._ec2 = ec2_client(sandbox, scene.region)
        self._scene = scene
        self._path = SESSIONS.format(scene.namespace)
        self._status = {"status": status_as_written(scene)}
        self._people = people
        self._account = account

    async def open(self, number: int) -> Steps:
        """Create, Authorize, write the status."""
        body, path = self._scene.session(number), f"{self._path}/{session_name(number)}"
        group = self._scene.groups[number % len(self._scene.groups)]
        times = [time.monotonic()]
        await self._people.call("POST", self._path, body)
        times.append(time.monotonic())
        made = authorize(self._ec2, group, [permission(address(number))])
        times.append(time.monotonic())
        await self._account.call("PATCH", f"{path}/status", self._status, content_type=MERGE_PATCH)
        times.append(time.monotonic())
        self._ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=[made])
        await _delete(self._account, path)
        return Steps(*(after - before for before, after in itertools.pairwise(times)))


async def burst(sandbox: Sandbox, scene: Scene, total: int, writers: int) -> list[Opening]:
    """The burst, served by the bare watcher."""
    status = sandbox.directory / "status.json"
    status.write_text(json.dumps(status_as_written(scene)))
    log = sandbox.directory / f"watcher-{scene.namespace}.log"
    program = Path(__file__).with_name("watcher.py")
    watcher = Process(
        "watcher",
        [sys.executable, str(program), str(sandbox.operator_kubeconfig), scene.namespace, str(status)],
        log,
    )
    watcher.start()
    try:
        watcher.wait_ready(lambda: "watching" in log.read_text(), READY_SECONDS)
        async with admin(sandbox) as api:
            return await load.burst(api, scene, total, writers)
    finally:
        watcher.stop()


def replay(sandbox: Sandbox, calls: Sequence[Mapping[str, Any]]) -> float:
    """Seconds that the Authorize calls of a call log take when bare boto3 makes them again, one after the other.

    Only the calls count, and not the pauses where the tokens are used up.
    """
    ec2 = ec2_client(sandbox, REPLAY_REGION)
    named = dict.fromkeys(call["group"] for call in calls)
    groups = {group: new_group(ec2, f"replayed-{number}") for number, group in enumerate(named)}
    spent = 0.0
    for call in calls:
        permissions = [permission(rule["source"], rule["description"]) for rule in call["rules"]]
        spent += _timed(ec2, groups[call["group"]], permissions)
    return spent


def _timed(ec2: Any, group: str, permissions: Sequence[Mapping[str, Any]]) -> float:
    while True:
        started = time.monotonic()
        try:
            authorize(ec2, group, permissions)
        except ClientError as error:
            if error.response["Error"]["Code"] != THROTTLED:
                raise
            time.sleep(PAUSE_SECONDS)
        else:
            return time.monotonic() - started


def authorize(ec2: Any, group: str, permissions: Sequence[Mapping[str, Any]]) -> str:
    """One Authorize with the owner's tag; the id of the first rule that it made."""
    answer = ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=permissions,
        TagSpecifications=[{"ResourceType": "security-group-rule", "Tags": [{"Key": OWNER_TAG, "Value": "bench"}]}],
    )
    return str(answer["SecurityGroupRules"][0]["SecurityGroupRuleId"])


def permission(cidr: str, description: str = "gatepass until=2026-11-22T16:00:00Z for=bench/db-0") -> dict[str, Any]:
    """One address and the port, as EC2 wants it."""
    return {
        "IpProtocol": "tcp",
        "FromPort": PORT,
        "ToPort": PORT,
        "IpRanges": [{"CidrIp": cidr, "Description": description}],
    }


def status_as_written(scene: Scene) -> dict[str, Any]:
    """The status that Gatepass would write on an open session, so that the API server has the same to check."""
    now = datetime.now(UTC)
    requester = Requester(username="sandbox-admin", uid="sandbox-admin", groups=("system:masters",))
    annotations = {REQUESTED_BY: requester.model_dump_json()}
    metadata = {"namespace": scene.namespace, "uid": "0" * 36, "creationTimestamp": now, "annotations": annotations}
    body = scene.session(0)
    session = AccessSession.model_validate({**body, "metadata": {**body["metadata"], **metadata}})
    (key,) = session.resource_keys()
    rule = PresentRule(Rule(address(0), "tcp", PORT, PORT), scene.groups[0], "sgr-" + "0" * 17, foreign=False)
    view = ResourceView(key, "0" * 36, (rule,), complete=True)
    return session_status(session, [view], None, now + timedelta(hours=1), now, refresh_places=True).to_json()


async def _delete(api: Api, path: str) -> None:
    await api.call("PATCH", path, {"metadata": {"finalizers": None}}, content_type=MERGE_PATCH)
    await api.call("DELETE", path)
