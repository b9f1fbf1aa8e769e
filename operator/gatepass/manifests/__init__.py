"""What an installation applies: CustomResourceDefinitions, RBAC and admission policies.

The CRDs are made from the models, the rest is the YAML of this package. The chart holds what `chart_files` gives.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import yaml

from gatepass.manifests.admission import Installation
from gatepass.manifests.crd import crds

__all__ = ["ENFORCED_AFTER", "chart_files", "crds", "dump", "manifests", "requester_policies"]

ENFORCED_AFTER: Final = timedelta(seconds=5)
"""After a policy was made, each API server enforces it: it looks for changed ones once a second, and times are whole
seconds (apiserver, pkg/admission/plugin/policy/generic/policy_source.go)."""


def manifests(
    namespace: str = "gatepass-system",
    service_account: str = "gatepass",
    name: str = "gatepass",
    watch_namespaces: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """What an installation needs beside the CRDs and the operator, in the order in which it is applied.

    `name` begins the names of what belongs to no namespace; the policies bind in `watch_namespaces`, or everywhere.
    """
    served = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(watch_namespaces)}
    selector = {"matchExpressions": [served]} if watch_namespaces else {}
    here = Installation(name, namespace, service_account, selector)
    return [
        *here.read("namespace.yaml"),
        *here.read("rbac.yaml"),
        *here.read("pods.yaml"),
        *here.read("owners.yaml"),
        *here.read("bindings.yaml"),
        *here.validating(),
        *here.mutating(),
    ]


def chart_files() -> Mapping[str, str]:
    """The files that the chart has in common with this package: texts by name, with tokens for the chart to fill in."""
    chart = Installation("${NAME}", "${NAMESPACE}", "${SERVICE_ACCOUNT}", "${NAMESPACE_SELECTOR}")
    files = {
        "crds.yaml": crds(),
        "rbac.yaml": chart.read("rbac.yaml"),
        "pods.yaml": chart.read("pods.yaml"),
        "validating.yaml": chart.validating(),
        "mutating.yaml": chart.mutating(),
    }
    return {name: "# Written by `make crds`.\n" + dump(objects) for name, objects in files.items()}


def requester_policies(name: str = "gatepass") -> tuple[str, ...]:
    """The validating policies, with bindings of the same names, that vouch for the annotation `requested-by`."""
    return (f"{name}-requester",)


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block, so that an expression can be read, and repeats instead of anchors."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def dump(objects: Sequence[Mapping[str, Any]]) -> str:
    """The objects as YAML documents."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=120, explicit_start=True)
