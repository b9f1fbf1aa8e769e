"""What an installation applies: CustomResourceDefinitions, RBAC and admission policies.

RBAC is package data; the CRDs and the policies are made from the models and from each other's parts. The chart holds
what `chart_files` gives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from string import Template
from typing import Any, Final

import yaml

from gatepass.manifests.admission import Admission
from gatepass.manifests.crd import crds

__all__ = ["REQUESTER_POLICIES", "chart_files", "crds", "dump", "manifests", "requester_policies"]

_METADATA_NAME: Final = "kubernetes.io/metadata.name"


@dataclass(frozen=True, slots=True)
class _Installation:
    """What differs from one installation to the next; in the chart these are the names of its variables."""

    name: str
    namespace: str
    service_account: str
    namespaces: Any = field(default_factory=dict)

    @property
    def admission(self) -> Admission:
        return Admission(self.name, f"system:serviceaccount:{self.namespace}:{self.service_account}", self.namespaces)

    def data(self, file: str) -> list[dict[str, Any]]:
        text = (resources.files(__name__) / file).read_text()
        tokens = {"NAME": self.name, "NAMESPACE": self.namespace, "SERVICE_ACCOUNT": self.service_account}
        return list(yaml.safe_load_all(Template(text).substitute(tokens)))


def manifests(
    namespace: str = "gatepass-system",
    service_account: str = "gatepass",
    name: str = "gatepass",
    watch_namespaces: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """What an installation needs beside the CRDs and the operator, in the order in which it is applied.

    `name` begins the names of all that belongs to no namespace; the policies bind in `watch_namespaces`, or everywhere.
    """
    inside = {"key": _METADATA_NAME, "operator": "In", "values": list(watch_namespaces)}
    selector = {"matchExpressions": [inside]} if watch_namespaces else {}
    here = _Installation(name, namespace, service_account, selector)
    return [
        *here.data("namespace.yaml"),
        *here.data("rbac.yaml"),
        *here.data("bindings.yaml"),
        *here.admission.policies(),
        *here.admission.stamp(),
    ]


def chart_files() -> Mapping[str, str]:
    """The files that the chart shares with this package: by name, with `${NAME}` and so on for the chart to fill in."""
    chart = _Installation("${NAME}", "${NAMESPACE}", "${SERVICE_ACCOUNT}", "${NAMESPACE_SELECTOR}")
    return {
        "crds.yaml": dump(crds()),
        "rbac.yaml": dump(chart.data("rbac.yaml")),
        "admission.yaml": dump(chart.admission.policies()),
        "stamp.yaml": dump(chart.admission.stamp()),
    }


def requester_policies(name: str = "gatepass") -> tuple[str, ...]:
    """The validating policies, and bindings of the same names, that vouch for the annotation `requested-by`."""
    return (f"{name}-requester",)


REQUESTER_POLICIES: Final = requester_policies()


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block, so that an expression can be read, and repeats instead of anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def dump(objects: Sequence[Mapping[str, Any]]) -> str:
    """The objects as YAML documents."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=120, explicit_start=True)
