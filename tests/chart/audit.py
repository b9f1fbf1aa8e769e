"""What an account may do by its roles, and what it did by the audit log, in the same terms."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Permission(NamedTuple):
    """A verb on a resource, such as patch on accesssessions/status of gatepass.dev."""

    verb: str
    group: str
    resource: str


def granted(roles: Iterable[Mapping[str, Any]]) -> set[Permission]:
    """What these roles allow."""
    return {
        Permission(verb, group, resource)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def requests(log: Path, username: str) -> list[dict[str, Any]]:
    """The requests of a user for objects, in the order of the audit log."""
    entries = (json.loads(line) for line in log.read_text().splitlines())
    return [
        each for each in entries if each["user"].get("username") == username and "resource" in each.get("objectRef", {})
    ]


def used(entries: Iterable[Mapping[str, Any]]) -> set[Permission]:
    """What these requests took."""
    found = set()
    for entry in entries:
        target = entry["objectRef"]
        resource = "/".join(filter(None, (target["resource"], target.get("subresource"))))
        found.add(Permission(entry["verb"], target.get("apiGroup", ""), resource))
    return found
