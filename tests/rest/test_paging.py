"""Pages cover a list once, in its order."""

from hypothesis import given
from hypothesis import strategies as st

from gatepass.rest.models import Answer, Page
from gatepass.rest.paging import Wanted, part


class Number(Answer):
    """An item."""

    value: int


def test_a_list_is_bare_unless_a_page_is_asked_for() -> None:
    assert part([1, 2], lambda value: Number(value=value), Wanted(None, None)) == [Number(value=1), Number(value=2)]


@given(st.integers(0, 60), st.integers(1, 25))
def test_pages(total: int, size: int) -> None:
    shown = []
    for number in range(max(-(-total // size), 1) + 1):
        page = part(range(total), lambda value: Number(value=value), Wanted(number, size))
        assert isinstance(page, Page)
        assert (page.total_elements, page.total_pages) == (total, -(-total // size))
        assert (page.number, page.size, page.number_of_elements) == (number, size, len(page.content))
        assert (page.first, page.last) == (number == 0, number >= page.total_pages - 1)
        shown += [each.value for each in page.content]
    assert shown == list(range(total))


def test_a_size_alone_is_the_first_page_and_a_page_alone_has_twenty() -> None:
    first = part(range(30), lambda value: Number(value=value), Wanted(None, 7))
    second = part(range(30), lambda value: Number(value=value), Wanted(1, None))
    assert isinstance(first, Page)
    assert isinstance(second, Page)
    assert (first.number, first.number_of_elements) == (0, 7)
    assert (second.size, second.number_of_elements) == (20, 10)
