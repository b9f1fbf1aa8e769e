"""A figure beside its floor and its bar, and the table of them for people."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One figure. `bar` is the most that it may be, absent where it is only told."""

    name: str
    value: float
    unit: str
    floor: float | None = None
    ratio: float | None = None
    bar: float | None = None

    @property
    def passed(self) -> bool | None:
        """Is the bar kept? Where there is a floor, the bar is one on the ratio."""
        return None if self.bar is None else (self.value if self.ratio is None else self.ratio) <= self.bar


def percentile(values: Sequence[float], percent: int) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[max(-(-len(ordered) * percent // 100), 1) - 1]


def table(title: str, found: Sequence[Figure]) -> Table:
    """The figures for people."""
    shown = Table(title=title, title_justify="left")
    for heading in ("figure", "Gatepass", "floor", "ratio", "bar", ""):
        shown.add_column(heading, justify="left" if heading in ("figure", "") else "right")
    for each in found:
        shown.add_row(
            each.name,
            f"{each.value:g} {each.unit}".strip(),
            "" if each.floor is None else f"{each.floor:g} {each.unit}",
            "" if each.ratio is None else f"{each.ratio:.2f}",
            "" if each.bar is None else f"<= {each.bar:g}",
            {None: "", True: "[green]pass[/]", False: "[red]MISS[/]"}[each.passed],
        )
    return shown


def conclude(title: str, found: Sequence[Figure], breaches: Sequence[str], console: Console) -> int:
    """Print the table, and what was broken; answers what to exit with: 1 where a bar was missed."""
    console.print(table(title, found))
    for breach in breaches:
        console.print(breach, markup=False)
    return int(any(each.passed is False for each in found))
