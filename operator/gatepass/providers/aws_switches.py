"""Dead man's switches by EventBridge Scheduler: one schedule for each rule, that revokes it and deletes itself.

Sources: the EventBridge Scheduler user guide, "Using universal targets", "Schedule types" (one-time, in UTC unless
said otherwise, to the minute) and "Deleting a schedule" (after completion, and after its last failed attempt).
"""

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from gatepass.core.errors import ProviderError
from gatepass.core.ports import Access
from gatepass.core.rules import Target
from gatepass.providers.aws_clients import AwsClients, Clients

if TYPE_CHECKING:
    from mypy_boto3_scheduler import EventBridgeSchedulerClient

PREFIX: Final = "gatepass-"
"""Of the names of schedules, which end in the id of the rule; all are in the group `default`."""
GRACE: Final = timedelta(minutes=5)
"""What the operator has left to close a rule itself, and to move `until` later."""
_RETRIED: Final = timedelta(minutes=5)
"""A call that was throttled may land so much later. By default it is a day, and closes what was extended since."""
_REVOKE: Final = "scheduler:::aws-sdk:ec2:revokeSecurityGroupIngress"
_PER_PAGE: Final = 100
_EXISTS: Final = "ConflictException"
_GONE: Final = "ResourceNotFoundException"


class AwsSwitches:
    """The `Switches` of security groups. `roles` are the ARNs of roles that Scheduler assumes, one for an account."""

    def __init__(self, clients: AwsClients, roles: Collection[str]) -> None:
        self._clients = clients
        self._roles: Mapping[str, str] = {role.split(":")[4]: role for role in roles}

    def covers(self, target: Target) -> bool:
        """Is there a role in the account?"""
        return target.account in self._roles

    async def armed(self, access: Access) -> Collection[str]:
        """The rules whose schedules are in the Region, of whatever installation: ids are never used twice."""
        found: set[str] = set()
        following: dict[str, Any] = {}
        while True:
            given = dict(following)
            page = await self._clients.read(
                access,
                "scheduler:ListSchedules",
                lambda aws, given=given: _scheduler(aws).list_schedules(  # type: ignore[misc]
                    GroupName="default", NamePrefix=PREFIX, MaxResults=_PER_PAGE, **given
                ),
            )
            found |= {entry["Name"].removeprefix(PREFIX) for entry in page["Schedules"]}
            if not page.get("NextToken"):
                return found
            following = {"NextToken": page["NextToken"]}

    async def arm(self, access: Access, target: Target, id_: str, until: datetime, *, again: bool) -> bool:
        """One call; a second one where there is no schedule to update."""
        schedule = self._schedule(target, id_, until)
        if again:
            try:
                await self._clients.call(
                    access, "scheduler:UpdateSchedule", lambda aws: _scheduler(aws).update_schedule(**schedule)
                )
            except ProviderError as error:
                if error.reason != _GONE:
                    raise
            else:
                return True
        try:
            await self._clients.call(
                access, "scheduler:CreateSchedule", lambda aws: _scheduler(aws).create_schedule(**schedule)
            )
        except ProviderError as error:
            if error.reason != _EXISTS:
                raise
            return False
        return True

    async def disarm(self, access: Access, target: Target, id_: str) -> None:
        """Delete the schedule."""
        del target
        try:
            await self._clients.call(
                access,
                "scheduler:DeleteSchedule",
                lambda aws: _scheduler(aws).delete_schedule(GroupName="default", Name=PREFIX + id_),
            )
        except ProviderError as error:
            if error.reason != _GONE:
                raise

    def _schedule(self, target: Target, id_: str, until: datetime) -> dict[str, Any]:
        """Everything anew, for an update sets back to its default what it does not name."""
        role = self._roles[target.account]
        return {
            "GroupName": "default",
            "Name": PREFIX + id_,
            "Description": f"closes {id_} in {target.id} if Gatepass does not",
            "ScheduleExpression": f"at({(until + GRACE).astimezone(UTC):%Y-%m-%dT%H:%M:%S})",
            "ScheduleExpressionTimezone": "UTC",
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "ActionAfterCompletion": "DELETE",
            "Target": {
                "Arn": f"arn:{role.split(':')[1]}:{_REVOKE}",
                "RoleArn": role,
                "Input": json.dumps({"GroupId": target.id, "SecurityGroupRuleIds": [id_]}),
                "RetryPolicy": {"MaximumEventAgeInSeconds": int(_RETRIED.total_seconds())},
            },
        }


def _scheduler(aws: Clients) -> "EventBridgeSchedulerClient":
    assert aws.scheduler is not None, "clients were made without Scheduler"  # noqa: S101  a defect, not an input
    return aws.scheduler
