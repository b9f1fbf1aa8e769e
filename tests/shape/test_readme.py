"""The README speaks of every field, and of none that is not there."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from gatepass.core.types.binding import ApiKeyBindingSpec
from gatepass.core.types.resource import LabelSelector, ProtectedResourceSpec
from gatepass.core.types.session import AccessSessionSpec

README = (Path(__file__).parents[2] / "README.md").read_text()


def paths(model: type[BaseModel], before: str = "") -> Iterator[str]:
    """Every field that a person writes, such as `ports[].port`; a label selector is Kubernetes's own."""
    for name, field in model.model_fields.items():
        path = f"{before}{field.alias or name}"
        inner, many = _inner(field.annotation)
        if inner is None or inner is LabelSelector or not inner.model_fields:
            yield path
        else:
            yield from paths(inner, f"{path}[]." if many else f"{path}.")


def _inner(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model in an annotation, if there is one, and whether it is in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    found = [(inner, many) for each in get_args(annotation) for inner, many in [_inner(each)] if inner is not None]
    if not found:
        return None, False
    inner, many = found[0]
    return inner, many or getattr(annotation, "__origin__", None) is tuple


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("AccessSession", AccessSessionSpec),
        ("ProtectedResource", ProtectedResourceSpec),
        ("ApiKeyBinding", ApiKeyBindingSpec),
    ],
)
def test_the_table_of_a_kind_has_exactly_its_fields(kind: str, spec: type[BaseModel]) -> None:
    section = README.split(f"### {kind}\n")[1].split("\n#")[0]
    assert sorted(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)) == sorted(paths(spec))


def test_links_lead_somewhere() -> None:
    root = Path(__file__).parents[2]
    for page in [
        root / "README.md",
        root / "CONTRIBUTING.md",
        *root.glob("docs/**/*.md"),
        *root.glob("examples/**/*.md"),
    ]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.relative_to(root)}: {link}"
