"""The CustomResourceDefinitions, made from the models: one definition of every field."""

from typing import Any

from gatepass.core.types import binding, resource, session
from gatepass.core.types.common import GROUP, VERSION, VERSION_COLUMN, Custom

_KINDS: tuple[tuple[type[Custom], str, str, list[dict[str, Any]]], ...] = (
    (session.AccessSession, session.PLURAL, "as", session.printer_columns()),
    (resource.ProtectedResource, resource.PLURAL, "pr", resource.printer_columns()),
    (binding.ApiKeyBinding, binding.PLURAL, "akb", binding.printer_columns()),
)

_VERSION = {"name": VERSION_COLUMN, "type": "string", "jsonPath": ".metadata.resourceVersion", "priority": 1}

# What JSON Schema says and a structural schema must not.
_DROPPED = {"title", "$defs", "additionalItems"}


def crds() -> list[dict[str, Any]]:
    """The CustomResourceDefinitions of this version."""
    return [_crd(model, plural, short, columns) for model, plural, short, columns in _KINDS]


def _crd(model: type[Custom], plural: str, short: str, columns: list[dict[str, Any]]) -> dict[str, Any]:
    kind = model.__name__
    schema = model.model_json_schema(by_alias=True, mode="serialization")
    required = model.model_json_schema(by_alias=True, mode="validation")
    root = _structural(schema, schema["$defs"], required["$defs"])
    root["properties"] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": root["properties"]["spec"],
        "status": root["properties"]["status"],
    }
    root["properties"]["status"].pop("default", None)
    root["required"] = ["spec"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["gatepass"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [*columns, _VERSION],
                    "schema": {"openAPIV3Schema": root},
                }
            ],
        },
    }


def _structural(node: Any, defs: dict[str, Any], required: dict[str, Any]) -> Any:
    """Inline references and say "optional" by absence instead of by null."""
    if isinstance(node, list):
        return [_structural(item, defs, required) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[-1]
        # A field is required when it has no default; the serialisation schema calls every field required.
        target = {**defs[name], "required": required[name].get("required", [])}
        siblings = {key: value for key, value in node.items() if key != "$ref"}
        merged = {**target, **siblings}
        rules = "x-kubernetes-validations"
        if rules in target and rules in siblings:
            merged[rules] = target[rules] + siblings[rules]
        return _structural(merged, defs, required)
    if "anyOf" in node:
        (only,) = (option for option in node["anyOf"] if option != {"type": "null"})
        rest = {key: value for key, value in node.items() if key != "anyOf"}
        return _structural({**only, **rest}, defs, required)
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key == "properties":
            out[key] = {name: _structural(child, defs, required) for name, child in value.items()}
        elif key == "default":
            if value is not None:
                out[key] = _without_nulls(value)
        elif key not in _DROPPED and not (key == "required" and not value):
            out[key] = _structural(value, defs, required) if key != "enum" else value
    if out.get("type") == "integer":
        out["format"] = "int64"
    return out


def _without_nulls(value: Any) -> Any:
    """A default as an object would have it: an absent field is absent."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value
