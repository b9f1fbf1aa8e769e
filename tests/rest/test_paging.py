"""Pages cover a list once, in its order."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic.alias_generators import to_camel

from gatepass.rest.models import Answer, Page
from gatepass.rest.paging import Wanted, json_of, part


class Number(Answer):
    """An item."""

    value: int


def told(found: Sequence[int], number: int | None, size: int | None) -> Any:
    return json.loads(part(found, lambda value: json_of(Number(value=value)), Wanted(number, size)).body)


def test_a_list_is_bare_unless_a_page_is_asked_for() -> None:
    assert told([1, 2], None, None) == [{"value": 1}, {"value": 2}]
    assert told([], None, None) == []


@given(st.integers(0, 60), st.integers(1, 25))
def test_pages(total: int, size: int) -> None:
    shown = []
    for number in range(max(-(-total // size), 1) + 1):
        page = told(range(total), number, size)
        assert list(page) == [to_camel(name) for name in Page.model_fields]
        assert (page["totalElements"], page["totalPages"]) == (total, -(-total // size))
        assert (page["number"], page["size"], page["numberOfElements"]) == (number, size, len(page["content"]))
        assert (page["first"], page["last"]) == (number == 0, number >= page["totalPages"] - 1)
        shown += [each["value"] for each in page["content"]]
    assert shown == list(range(total))


def test_a_size_alone_is_the_first_page_and_a_page_alone_has_twenty() -> None:
    first, second = told(range(30), None, 7), told(range(30), 1, None)
    assert (first["number"], first["numberOfElements"]) == (0, 7)
    assert (second["size"], second["numberOfElements"]) == (20, 10)
