"""The strict EC2 emulator: moto, and before it whatever AWS does and moto does not.

moto runs inside and not behind a second HTTP hop: a call then costs 2 ms and not 5, checks and effects cannot
interleave, and the strict parts work on moto's own state. What no strict part claims is moto's answer, unchanged.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from moto.ec2.models import ec2_backends
from moto.ec2.models.security_groups import SecurityGroup

from gatepass.sandbox.ec2 import ingress, interfaces, network, rules
from gatepass.sandbox.ec2.faults import Facts, Faults, Strike
from gatepass.sandbox.ec2.identity import Caller, Identities, denial, expiry
from gatepass.sandbox.ec2.motoapp import HttpRequest, MotoApp
from gatepass.sandbox.ec2.others import OtherTool
from gatepass.sandbox.ec2.query import Answer, AwsError, Call, ec2_answer, elements, error_answer
from gatepass.sandbox.ec2.throttle import READS, Throttle

WARM_UP_ACCOUNT = "000000000000"
QUOTA_CODE = "L-0EA8095F"
_NAT_ID = re.compile(rb"<natGatewayId>(nat-[0-9a-f]+)<")


@dataclass(frozen=True)
class Outcome:
    """What the caller gets after `delay` seconds: an answer, or None for a connection that is cut."""

    answer: Answer | None
    delay: float = 0.0
    edits: Callable[[], None] = lambda: None


class Emulator:
    """All AWS state of a sandbox; one call at a time has its effect.

    `tell` is given an entry for the log for each edit that another tool makes.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self.faults = Faults()
        self.identities = Identities()
        self.quotas: dict[tuple[str, str], int] = {}
        self.throttle = Throttle()
        self._history = ingress.History()
        self._addresses = network.public_addresses()
        self._moto = MotoApp()
        self._other = OtherTool(tell)

    def warm_up(self) -> None:
        """Have moto load what it loads at the first call, which takes more than a second."""
        credential = "AWS4-HMAC-SHA256 Credential=WARMUP/20260101/us-east-1"
        for service, action in (("ec2", "DescribeVpcs"), ("sts", "GetCallerIdentity")):
            body = urlencode({"Action": action, "Version": "2016-11-15" if service == "ec2" else "2011-06-15"}).encode()
            headers = {
                "Authorization": f"{credential}/{service}/aws4_request, SignedHeaders=host, Signature=0",
                "Content-Type": "application/x-www-form-urlencoded; charset=utf-8",
                "Host": "127.0.0.1",
            }
            self._moto.ask(HttpRequest("POST", "/", "", headers, body), WARM_UP_ACCOUNT)

    async def answer(self, call: Call, request: HttpRequest, entry: dict[str, Any]) -> Outcome:
        """Answer one call and tell the log entry about it; `edits` of the outcome come after the entry.

        `effect` in the entry is what came of the call in truth, `code` and `status` what the caller was told.
        """
        entry.update(service=call.service, action=call.action, region=call.region, access_key=call.access_key)
        struck: list[Strike] = []
        caller = Caller("", None)
        answer: Answer | None
        try:
            caller = self.identities.caller(call.service, call.access_key)
            entry.update(account=caller.account, role=caller.role, **_logged_params(call, caller.account))
            if call.service == "ec2":
                self.throttle.take(caller.account, call.region, call.action)
            facts = _facts(call, caller)
            struck = self.faults.strike(facts)
            entry["faults"] = [str(strike) for strike in struck]
            if not await _let_through(struck, call):
                return Outcome(None)
            # tags on create need a permission of their own
            if "TagSpecification" in call.params and self.faults.denied(replace(facts, action="CreateTags")):
                raise denial(call.service, call.action)
            self._others(struck, "before", call, caller)
            lag = max((strike.seconds for strike in struck if strike.fault.kind == "lag"), default=0.0)
            answer = self._effect(call, caller, request, lag, entry)
            entry["effect"] = answer.code or "ok"
            answer = _strike_after(struck, answer)
        except AwsError as error:
            answer = error_answer(call.service, error)
        if answer is not None:
            entry.update(status=answer.status, code=answer.code)
        held = (strike for strike in struck if strike.fault.kind == "latency" and strike.fault.when == "after")
        late = sum(strike.seconds for strike in held)
        entry["late_ms"] = round(late * 1000, 2) or None
        return Outcome(answer, late, lambda: self._others(struck, "after", call, caller))

    def _others(self, struck: Sequence[Strike], when: str, call: Call, caller: Caller) -> None:
        """What other tools do to the groups that a call names, just before its effect or just after it."""
        for strike in struck:
            if strike.fault.when != when or strike.fault.kind not in {"meddle", "vanish"}:
                continue
            backend = ec2_backends[caller.account][call.region]
            for group in list(_touched(backend, {"GroupId": _groups(call.params)})):
                if strike.fault.kind == "vanish":
                    self._other.delete(backend, group)
                else:
                    self._history.record(group)
                    self._other.edit(backend, group, call.params, strike.lot)

    def true_rules(self, account: str, region: str, group_ids: Sequence[str]) -> dict[str, list[dict[str, Any]] | None]:
        """The present ingress rules of these groups, or of all in the Region; None where there is no such group."""
        groups = {
            group.id: group for members in ec2_backends[account][region].groups.values() for group in members.values()
        }
        return {
            group_id: [rules.view(rule) for rule in groups[group_id].ingress_rules] if group_id in groups else None
            for group_id in group_ids or groups
        }

    def _effect(self, call: Call, caller: Caller, request: HttpRequest, lag: float, entry: dict[str, Any]) -> Answer:
        if call.service == "ec2":
            return self._ec2(call, caller, request, lag, entry)
        if call.service == "sts" and call.action == "AssumeRole":
            self.identities.check_assume_role(call.params.get("RoleArn", ""), call.params.get("ExternalId"), caller)
        answer = self._moto.ask(request, caller.account)
        if call.action == "GetServiceQuota" and call.params.get("QuotaCode") == QUOTA_CODE and not answer.code:
            told = json.loads(answer.body)
            told["Quota"]["Value"] = self._quota(caller.account, call.region)
            return replace(answer, body=json.dumps(told).encode())
        return answer

    def _quota(self, account: str, region: str) -> int:
        """Rules per family that a group may have at present."""
        granted = self.quotas.get((account, region), rules.DEFAULT_QUOTA)
        lowered = self.faults.quota(account, region)
        return granted if lowered is None else min(granted, lowered)

    def _ec2(self, call: Call, caller: Caller, request: HttpRequest, lag: float, entry: dict[str, Any]) -> Answer:
        backend, params = ec2_backends[caller.account][call.region], call.params
        if self.faults.lagging() and not call.action.startswith(READS):
            for group in _touched(backend, params):
                self._history.record(group)
        content: Mapping[str, Any]
        match call.action:
            case "AuthorizeSecurityGroupIngress":
                quota = self._quota(caller.account, call.region)
                content, entry["made"] = ingress.authorize(backend, params, quota)
            case "RevokeSecurityGroupIngress":
                content = ingress.revoke(backend, params)
                entry["removed"] = [rule["securityGroupRuleId"] for rule in content["revokedSecurityGroupRuleSet"]]
            case "UpdateSecurityGroupRuleDescriptionsIngress":
                content = ingress.update_descriptions(backend, params)
            case "DescribeSecurityGroupRules":
                content = ingress.describe(backend, params, self._history, lag)
            case "AssociateNatGatewayAddress":
                content = network.associate(backend, params)
            case "DisassociateNatGatewayAddress":
                content = network.disassociate(backend, params)
            case "AssociateAddress" if interfaces.is_secondary(backend, params):
                content = interfaces.associate(backend, params)
            case "DisassociateAddress" if interfaces.is_associated(backend, params):
                content = interfaces.disassociate(backend, params)
            case "AssignIpv6Addresses" if "Ipv6Prefix" in params:
                content = interfaces.delegate(backend, params)
            case "AllocateAddress" if "Address" not in params:
                wanted = request.body + b"&" + urlencode({"Address": next(self._addresses)}).encode()
                return self._moto.ask(replace(request, body=wanted), caller.account)
            case "CreateNatGateway":
                return self._create_nat_gateway(backend, call, caller, request)
            case _:
                return self._moto.ask(request, caller.account)
        return ec2_answer(call.action, elements(content))

    def _create_nat_gateway(self, backend: Any, call: Call, caller: Caller, request: HttpRequest) -> Answer:
        secondary = call.params.get("SecondaryAllocationId") or []
        network.check_free(backend, secondary)
        answer = self._moto.ask(request, caller.account)
        if found := _NAT_ID.search(answer.body):
            gateway = backend.nat_gateways[found.group(1).decode()]
            network.mark_primary(gateway)
            network.add_addresses(backend, gateway, secondary)
        return answer


def _touched(backend: Any, params: Mapping[str, Any]) -> Iterator[SecurityGroup]:
    """The groups whose rules, or the tags of whose rules, a call may change."""
    named = {*_groups(params), *params.get("ResourceId", ())}
    for groups in backend.groups.values():
        for group in groups.values():
            if group.id in named or any(rule.id in named for rule in group.ingress_rules):
                yield group


def _groups(params: Mapping[str, Any]) -> list[str]:
    """The security groups that a call names, as a parameter or as a filter."""
    given = params.get("GroupId") or []
    filters = [each.get("Value") or [] for each in params.get("Filter") or () if each.get("Name") == "group-id"]
    return [*([given] if isinstance(given, str) else given), *(value for values in filters for value in values)]


def _facts(call: Call, caller: Caller) -> Facts:
    return Facts(
        service=call.service,
        action=call.action,
        account=caller.account,
        region=call.region,
        access_key=call.access_key,
        groups=_groups(call.params),
        role=call.params.get("RoleArn") if call.action == "AssumeRole" else caller.role,
    )


def _logged_params(call: Call, account: str) -> dict[str, Any]:
    """What of the parameters a reader of the log wants: groups, rules and ids told apart, anything else as it came."""
    params = dict(call.params)
    groups = _groups(params) if call.service == "ec2" else []
    logged: dict[str, Any] = {"group": groups[0]} if len(groups) == 1 else {"groups": groups}
    params.pop("GroupId", None)
    described = params.pop("SecurityGroupRuleDescription", None)
    logged["ids"] = params.pop("SecurityGroupRuleId", None) or [
        entry.get("SecurityGroupRuleId") for entry in described or ()
    ]
    if described:
        logged["descriptions"] = [entry.get("Description") for entry in described]
    if "IpPermissions" in params:
        try:
            logged["rules"] = [
                {
                    "protocol": each.protocol,
                    "from": each.from_port,
                    "to": each.to_port,
                    "source": each.value,
                    "description": text,
                }
                for each, text in rules.permissions(params, account)
            ]
            del params["IpPermissions"]
        except AwsError:
            pass  # the call is about to be refused for it; the log shows it as it came
    return {**logged, "params": params}


async def _let_through(struck: Sequence[Strike], call: Call) -> bool:
    """Whether the call gets as far as its effect; False for a connection that is cut. Raises AwsError for a refusal."""
    for strike in struck:
        fault = strike.fault
        if fault.when == "after":
            continue
        match fault.kind:
            case "latency":
                await asyncio.sleep(strike.seconds)
            case "deny":
                raise denial(call.service, call.action)
            case "expired":
                raise expiry(call.service)
            case "reset":
                return False
            case "error":
                raise AwsError(fault.code, fault.message, fault.status)
    return True


def _strike_after(struck: Sequence[Strike], answer: Answer) -> Answer | None:
    for fault in (strike.fault for strike in struck if strike.fault.when == "after"):
        if fault.kind == "reset":
            return None
        if fault.kind == "error":
            raise AwsError(fault.code, fault.message, fault.status)
    return answer
