"""The files of examples/, read as what they are."""

from pathlib import Path
from typing import Any

import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"


def documents(path: str) -> list[dict[str, Any]]:
    """All YAML documents of a file."""
    return [document for document in yaml.safe_load_all((EXAMPLES / path).read_text()) if document is not None]


def document(path: str, kind: str, name: str = "") -> dict[str, Any]:
    """The one document of a kind, and of a name if there are several."""
    found = [
        each for each in documents(path) if each["kind"] == kind and name in ("", each["metadata"].get("name", ""))
    ]
    assert len(found) == 1, f"{path} has {len(found)} of {kind} {name}"
    return found[0]
