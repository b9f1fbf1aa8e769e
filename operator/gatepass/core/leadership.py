"""Who leads an installation and has led it, as its Lease tells: so a rule tells whether it was made here."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from gatepass.core.types.common import format_time, parse_time

ANYBODY: Final = "*"
"""Stands for whoever else may have led before a restore: until then, what carries our id was made here."""


@dataclass(slots=True)
class Leadership:
    """`name` is this process's alone. `renewed_at` is its last renewal of the Lease that is known to be on record.

    `earlier` are those who led before, each with the last renewal. A rule bears the renewal before it, and no clock: so
    none that was made here is younger than what is on record of its maker.
    """

    name: str = "gatepass"
    renewed_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    earlier: dict[str, datetime] = field(default_factory=dict)

    @property
    def maker(self) -> str:
        """Who makes a rule now, as the rule tells it."""
        return f"{self.name}/{format_time(self.renewed_at)}"

    def made(self, maker: str) -> bool:
        """Was a rule with this maker made here?"""
        leader, _, at = maker.rpartition("/")
        try:
            renewed_at = parse_time(at)
        except ValueError:
            return False
        recorded = (self.earlier[name] for name in (leader, ANYBODY) if name in self.earlier)
        return leader == self.name or any(renewed_at <= until for until in recorded)

    def remember(self, leader: str, renewed_at: datetime) -> None:
        """Somebody has led until then at least."""
        self.earlier[leader] = max(renewed_at, self.earlier.get(leader, renewed_at))
