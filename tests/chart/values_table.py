"""The table of values in the chart's README, from the comments in values.yaml.

`python -m tests.chart.values_table` writes it anew.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parents[2] / "charts" / "gatepass"
_TABLE = re.compile(r"(?<=<!-- values -->\n).*?(?=<!-- /values -->)", re.DOTALL)


def documented() -> dict[str, str]:
    """What the comment above each value says, by the value's path."""
    found: dict[str, str] = {}
    parent, comment = "", ""
    for line in (CHART / "values.yaml").read_text().splitlines():
        if said := re.fullmatch(r" *# -- (.+)", line):
            comment = said[1]
        elif key := re.match(r"( *)([A-Za-z]+):", line):
            parent = parent if key[1] else key[2]
            if comment:
                found[f"{parent}.{key[2]}" if key[1] else key[2]] = comment
            comment = ""
    return found


def defaults() -> dict[str, Any]:
    """The documented values' defaults, by path."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    found = {}
    for path in documented():
        node = values
        for part in path.split("."):
            node = node[part]
        found[path] = node
    return found


def table() -> str:
    """The table in Markdown."""
    rows = (f"| `{path}` | `{json.dumps(defaults()[path])}` | {text} |\n" for path, text in documented().items())
    return "| value | default | |\n|---|---|---|\n" + "".join(rows)


def readme() -> str:
    """The README with the table as it should be."""
    return _TABLE.sub(lambda _: table(), (CHART / "README.md").read_text())


if __name__ == "__main__":
    (CHART / "README.md").write_text(readme())
