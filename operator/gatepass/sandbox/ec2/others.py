"""Another tool in the account, with an access key of its own: it edits and deletes groups that Gatepass works on."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moto.ec2.models.security_groups import SecurityGroup

from gatepass.sandbox.ec2 import rules
from gatepass.sandbox.ec2.query import AwsError

OTHER_KEY = "AKIAANOTHERTOOL00001"
_MOST_RULES = 5


class OtherTool:
    """Its edits have their effect at once; each is told to `tell` as a call of its own, for the log."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self._tell = tell
        self._made: dict[str, list[str]] = {}

    def edit(self, backend: Any, group: SecurityGroup, call: Mapping[str, Any], lot: random.Random) -> None:
        """One edit, drawn from `lot`: mostly of its own rules, now and then the very rule of `call`, or one of ours."""
        present = {rule.id for rule in group.ingress_rules}
        own = [id_ for id_ in self._made.get(group.id, ()) if id_ in present]
        drawn = lot.random()
        if drawn < 0.2 and call.get("IpPermissions"):
            wanted = rules.permissions(call, backend.account_id)
            self._add(backend, group, lot.choice(wanted)[0])
        elif drawn < 0.3 and present.difference(own):
            self._remove(backend, group, [lot.choice(sorted(present.difference(own)))])
        elif drawn < 0.4 and own:
            self._describe(backend, group, lot.choice(own), f"other tool, edit {lot.randrange(1000)}")
        elif len(own) < _MOST_RULES:
            address = f"192.0.2.{lot.randrange(256)}/32"
            self._add(backend, group, rules.Permission("tcp", 5432, 5432, "cidr4", address))
        else:
            self._remove(backend, group, own[: lot.randint(1, len(own))])

    def delete(self, backend: Any, group: SecurityGroup) -> None:
        """The group goes, with all of its rules."""
        gone = [rule.id for rule in group.ingress_rules]
        for groups in backend.groups.values():
            groups.pop(group.id, None)
        self._did(backend, group, "DeleteSecurityGroup", removed=gone)

    def _add(self, backend: Any, group: SecurityGroup, permission: rules.Permission) -> None:
        try:
            made = rules.authorize(backend, group, [(permission, "other tool")], {}, rules.DEFAULT_QUOTA)
        except AwsError:
            return  # it is there already, or the group is full
        ids = [rule.id for rule in made]
        self._made.setdefault(group.id, []).extend(ids)
        told = {
            "protocol": permission.protocol,
            "from": permission.from_port,
            "to": permission.to_port,
            "source": permission.value,
            "description": "other tool",
        }
        self._did(backend, group, "AuthorizeSecurityGroupIngress", rules=[told], made=ids)

    def _remove(self, backend: Any, group: SecurityGroup, ids: Sequence[str]) -> None:
        group.ingress_rules = [rule for rule in group.ingress_rules if rule.id not in ids]
        for id_ in ids:
            backend.tags.pop(id_, None)
        self._did(backend, group, "RevokeSecurityGroupIngress", ids=list(ids), removed=list(ids))

    def _describe(self, backend: Any, group: SecurityGroup, id_: str, text: str) -> None:
        (rule,) = rules.rules_by_id(group, [id_])
        (rule.source_group or rule.ip_range)["Description"] = text
        self._did(backend, group, "UpdateSecurityGroupRuleDescriptionsIngress", ids=[id_], descriptions=[text])

    def _did(self, backend: Any, group: SecurityGroup, action: str, **told: Any) -> None:
        self._tell(
            {
                "service": "ec2",
                "action": action,
                "region": backend.region_name,
                "access_key": OTHER_KEY,
                "account": backend.account_id,
                "group": group.id,
                **told,
                "effect": "ok",
                "status": 200,
            }
        )
