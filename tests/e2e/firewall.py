"""Security groups as the tests' own admin has them: what is truly in them, and what other people do there."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from operator import itemgetter
from typing import Any

from gatepass.sandbox.cloud import REGION
from gatepass.sandbox.ec2.client import Ec2Control
from gatepass.sandbox.ec2.faults import Fault
from tests.conftest import AwsAccount
from tests.observer.observer import Observer
from tests.observer.promise import is_ours

_numbers = count(1)


def tcp(*cidrs: str, port: int = 5432, description: str = "") -> list[dict[str, Any]]:
    """IpPermissions for one TCP port and IPv4."""
    told = {"Description": description} if description else {}
    ranges = [{"CidrIp": cidr, **told} for cidr in cidrs]
    return [{"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": ranges}]


def addresses(number: int) -> list[str]:
    """So many different addresses."""
    return [f"198.51.100.{index}/32" for index in range(number)]


class Group:
    """One security group. What is done to rules through it is told to the observer first."""

    def __init__(self, firewall: "Firewall", id_: str) -> None:
        self._firewall = firewall
        self.id = id_

    def rules(self) -> list[dict[str, Any]]:
        """The ingress rules as they truly are; tags have no order."""
        found = self._firewall.control.rules(self.id, account=self._firewall.account.account, region=REGION)
        return [{**rule, "tagSet": sorted(rule["tagSet"], key=itemgetter("key"))} for rule in found[self.id] or []]

    def ours(self) -> list[dict[str, Any]]:
        """Those of them with Gatepass's marks."""
        return [rule for rule in self.rules() if is_ours(rule, self._firewall.owner)]

    def open_to(self) -> set[tuple[str, int]]:
        """Every (source, first port) of the rules with Gatepass's marks."""
        return {(rule.get("cidrIpv4") or rule["cidrIpv6"], int(rule["fromPort"])) for rule in self.ours()}

    def add(self, *cidrs: str, port: int = 5432, description: str = "made by others") -> list[dict[str, Any]]:
        """Rules that somebody else makes."""
        answer = self._firewall.ec2.authorize_security_group_ingress(
            GroupId=self.id, IpPermissions=tcp(*cidrs, port=port, description=description)
        )
        made = {rule["SecurityGroupRuleId"] for rule in answer["SecurityGroupRules"]}
        return [rule for rule in self.rules() if rule["securityGroupRuleId"] in made]

    def remove(self, *rules: dict[str, Any]) -> None:
        """Rules that somebody else removes."""
        ids = [rule["securityGroupRuleId"] for rule in rules]
        self._firewall.observer.touching(*ids)
        self._firewall.ec2.revoke_security_group_ingress(GroupId=self.id, SecurityGroupRuleIds=ids)

    def untag(self, rule: dict[str, Any]) -> None:
        """The owner tag goes."""
        self._firewall.observer.touching(rule["securityGroupRuleId"])
        self._firewall.ec2.delete_tags(Resources=[rule["securityGroupRuleId"]], Tags=[{"Key": "gatepass.dev/owner"}])

    def fault(self, **fault: Any) -> AbstractContextManager[None]:
        """Something goes wrong with the calls that name this group."""
        return self.faults(fault)

    @contextmanager
    def faults(self, *faults: dict[str, Any]) -> Iterator[None]:
        """Several things go wrong with them."""
        self._firewall.control.set_faults(*(Fault(**{"group": self.id, **fault}) for fault in faults))
        yield
        self._firewall.control.set_faults()

    def last(self) -> int:
        """The number of the last call to EC2."""
        return self._firewall.control.last()

    def calls(self, since: int) -> list[dict[str, Any]]:
        """The calls after that number that name this group."""
        return [call for call in self._firewall.control.log(since) if call.get("group") == self.id]

    def struck(self) -> int:
        """How many calls the present fault has struck so far."""
        return sum(int(fault["struck"]) for fault in self._firewall.control.faults())


class Firewall:
    """The security groups of one AWS account."""

    def __init__(self, account: AwsAccount, observer: Observer, owner: str) -> None:
        self.account = account
        self.control: Ec2Control = account.control
        self.observer = observer
        self.owner = owner
        self.ec2 = account.client("ec2")

    def group(self) -> Group:
        """A new, empty group."""
        name = f"e2e-{next(_numbers)}"
        return Group(self, self.ec2.create_security_group(GroupName=name, Description="e2e")["GroupId"])
