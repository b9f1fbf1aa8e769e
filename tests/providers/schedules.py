"""EventBridge's side of Scheduler, which moto keeps and does not run."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from tests.conftest import AwsAccount

_UNIVERSAL = "arn:aws:scheduler:::aws-sdk:ec2:revokeSecurityGroupIngress"


class Schedules:
    """The schedules of an account and Region."""

    def __init__(self, aws: AwsAccount) -> None:
        self._aws = aws
        self.key = aws.access_key
        self._scheduler = aws.client("scheduler")
        self._ec2 = aws.client("ec2")

    def names(self) -> set[str]:
        """What there is."""
        return set(self._names())

    def _names(self) -> Iterator[str]:
        for page in self._scheduler.get_paginator("list_schedules").paginate():
            yield from (entry["Name"] for entry in page["Schedules"])

    def get(self, name: str) -> dict[str, Any]:
        """One schedule in full."""
        found: dict[str, Any] = self._scheduler.get_schedule(Name=name)
        return found

    def due(self, name: str) -> datetime:
        """When it runs."""
        text = self.get(name)["ScheduleExpression"].removeprefix("at(").removesuffix(")")
        return datetime.fromisoformat(text).replace(tzinfo=UTC)

    def run_due(self, now: datetime) -> list[str]:
        """Call the targets of all that are due, with the caller's own rights; those that ask for it are deleted."""
        due = [name for name in sorted(self.names()) if self.due(name) <= now]
        for name in due:
            schedule = self.get(name)
            assert schedule["Target"]["Arn"] == _UNIVERSAL
            self._ec2.revoke_security_group_ingress(**json.loads(schedule["Target"]["Input"]))
            if schedule["ActionAfterCompletion"] == "DELETE":
                self._scheduler.delete_schedule(Name=name)
        return due

    def calls(self) -> list[dict[str, Any]]:
        """What Scheduler was asked in this account."""
        entries = self._aws.control.log()
        return [each for each in entries if each.get("account") == self._aws.account and each["service"] == "scheduler"]
