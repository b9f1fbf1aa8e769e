"""Lists: a bare array, or Spring's Page when a page is asked for."""

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Depends, Query

from gatepass.rest.models import Answer, Page

S = TypeVar("S")
A = TypeVar("A", bound=Answer)


class Wanted:
    """The part of a list that is asked for; everything when neither is given."""

    def __init__(
        self,
        page: Annotated[int | None, Query(ge=0, le=1_000_000, description="From 0.")] = None,
        size: Annotated[int | None, Query(ge=1, le=100, description="20 by default.")] = None,
    ) -> None:
        self.paged = page is not None or size is not None
        self.number = page or 0
        self.size = size or 20


WantedPart = Annotated[Wanted, Depends()]


def part(found: Sequence[S], view: Callable[[S], A], wanted: Wanted) -> Page[A] | list[A]:
    """The part, in the order given; only what is shown is made."""
    if not wanted.paged:
        return [view(each) for each in found]
    start = wanted.number * wanted.size
    shown = tuple(view(each) for each in found[start : start + wanted.size])
    pages = -(-len(found) // wanted.size)
    return Page(
        content=shown,
        total_elements=len(found),
        total_pages=pages,
        number=wanted.number,
        size=wanted.size,
        first=wanted.number == 0,
        last=wanted.number >= pages - 1,
        number_of_elements=len(shown),
    )
