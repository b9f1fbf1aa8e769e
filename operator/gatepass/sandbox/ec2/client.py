"""What a test asks of the emulator beside AWS's own API: its log, the true rules, faults, identities."""

import http.client
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from gatepass.sandbox.ec2.faults import Fault

TIMEOUT_SECONDS = 10.0
_REFUSED = 400


class Ec2Control:
    """A client of the emulator's control endpoint; none of its calls is throttled, logged or struck by faults."""

    def __init__(self, endpoint_url: str, region: str, account: str) -> None:
        url = urlsplit(endpoint_url)
        self._host, self._port = url.hostname or "", url.port
        self._region, self._account = region, account

    def ready(self) -> bool:
        """Whether the emulator answers."""
        try:
            self._request("GET", "ready")
        except OSError:
            return False
        return True

    def log(self, since: int = 0) -> list[dict[str, Any]]:
        """The calls after number `since`, as the log file has them: `seq`, `action`, `status` and more."""
        entries: list[dict[str, Any]] = self._request("GET", f"log?since={since}")["entries"]
        return entries

    def follow(self, since: int) -> tuple[list[dict[str, Any]], int, list[dict[str, Any]]]:
        """The calls after number `since`, the number of the last one, and those that are not answered yet."""
        told = self._request("GET", f"log?since={since}")
        return told["entries"], int(told["last"]), told["under_way"]

    def last(self) -> int:
        """The number of the last call, for `log(since=...)`."""
        return int(self._request("GET", "log?since=999999999999")["last"])

    def rules(
        self, *groups: str, region: str | None = None, account: str | None = None
    ) -> dict[str, list[dict[str, Any]] | None]:
        """The ingress rules of these groups, or of all, as they truly are; None for a group that does not exist.

        In the names of EC2's XML: securityGroupRuleId, ipProtocol, fromPort, toPort, cidrIpv4, description, tagSet.
        """
        query = [("account", account or self._account), ("region", region or self._region)]
        answer = self._request("GET", f"rules?{urlencode([*query, *(('group', group) for group in groups)])}")
        found: dict[str, list[dict[str, Any]] | None] = answer["groups"]
        return found

    def set_faults(self, *faults: Fault, seed: int = 0) -> None:
        """Put these in force instead of all others; none clears them. The same seed strikes the same calls again."""
        self._request("PUT", f"faults?seed={seed}", [fault.model_dump(exclude_defaults=True) for fault in faults])

    def faults(self) -> list[dict[str, Any]]:
        """The faults in force, with `matched` and `struck` counts."""
        found: list[dict[str, Any]] = self._request("GET", "faults")
        return found

    def set_credential(self, access_key: str, *, account: str | None = None, refused: bool = False) -> None:
        """Say whose an access key is, or have it refused as a deleted key is."""
        self._request("PUT", f"credentials/{quote(access_key, safe='')}", {"account": account, "refused": refused})

    def set_role(self, arn: str, *, external_id: str | None = None, refused: bool = False) -> None:
        """Have a role ask for an external id, or trust nobody."""
        self._request("PUT", "roles", {arn: {"external_id": external_id, "refused": refused}})

    def set_throttles(self, *, on: bool) -> None:
        """Have calls throttled as AWS does, or not at all: for what the throttles would hide."""
        self._request("PUT", "throttles", on)

    def set_quota(self, rules_per_group: int, *, region: str | None = None, account: str | None = None) -> None:
        """Set the number of rules per family that a group may have; Service Quotas then says the same."""
        self._request("PUT", f"quotas/{account or self._account}/{region or self._region}", rules_per_group)

    def _request(self, method: str, path: str, body: Mapping[str, Any] | Sequence[Any] | int | None = None) -> Any:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(method, f"/_gatepass/{path}", None if body is None else json.dumps(body))
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= _REFUSED:
            raise ValueError(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
        return json.loads(text) if text else None
