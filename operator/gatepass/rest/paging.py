"""Lists: a bare array, or Spring's Page when a page is asked for."""

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Depends, Query, Response

from gatepass.rest.models import Answer, Page

S = TypeVar("S")


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


def part(found: Sequence[S], view: Callable[[S], bytes], wanted: Wanted) -> Response:
    """The part, in the order given, of what `view` writes as JSON; only what is shown is made."""
    if not wanted.paged:
        return _json(b"[" + b",".join([view(each) for each in found]) + b"]")
    start = wanted.number * wanted.size
    return page_of([view(each) for each in found[start : start + wanted.size]], len(found), wanted)


def page_of(shown: Sequence[bytes], total: int, wanted: Wanted) -> Response:
    """Spring's Page of what is shown, as JSON, of so many in all."""
    pages = -(-total // wanted.size)
    page: Page[Answer] = Page(
        content=(),
        total_elements=total,
        total_pages=pages,
        number=wanted.number,
        size=wanted.size,
        first=wanted.number == 0,
        last=wanted.number >= pages - 1,
        number_of_elements=len(shown),
    )
    rest = page.model_dump_json(exclude={"content"}).encode()
    return _json(b'{"content":[' + b",".join(shown) + b"]," + rest[1:])


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def json_of(answer: Answer) -> bytes:
    """An answer as the framework would write it."""
    return answer.model_dump_json().encode()
