"""Names as the contract has them, any line of text, for objects of Kubernetes, which take labels of DNS."""

import re
from typing import Any, Final

from gatepass.core.types.common import Custom

_TITLE: Final = "gatepass.dev/title"


def slug(title: str) -> str:
    """A name that Kubernetes takes, as far as the title has one: `GitHub Actions CI` becomes `github-actions-ci`."""
    return "-".join(re.findall("[a-z0-9]+", title.lower()))[:63].rstrip("-")


def titled(title: str) -> dict[str, Any]:
    """Metadata that keeps the title."""
    return {"annotations": {_TITLE: title}}


def title(named: Custom) -> str:
    """What the object is called."""
    return named.metadata.annotations.get(_TITLE, named.metadata.name)
