"""Who made a rule: a leader of this installation, when it led here, or somebody else."""

from datetime import timedelta

import pytest

from gatepass.core.leadership import ANYBODY, Leadership
from tests.core.builders import NOON

SECOND = timedelta(seconds=1)


def leadership(**earlier: object) -> Leadership:
    return Leadership("me", NOON, {"earlier": NOON, **earlier})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("maker", "here"),
    [
        (Leadership("me", NOON - SECOND).maker, True),
        (Leadership("me", NOON + SECOND).maker, True),
        (Leadership("earlier", NOON).maker, True),
        (Leadership("earlier", NOON + SECOND).maker, False),  # here it had not renewed by then
        (Leadership("another", NOON - timedelta(days=1)).maker, False),
        ("earlier", False),
        ("", False),
        ("earlier/yesterday", False),
    ],
)
def test_a_rule_was_made_here_by_who_led_here_then(maker: str, here: bool) -> None:
    assert leadership().made(maker) == here


def test_until_a_restore_anybody_may_have_led() -> None:
    restored = leadership(**{ANYBODY: NOON})
    assert restored.made(Leadership("another", NOON).maker)
    assert not restored.made(Leadership("another", NOON + SECOND).maker)


def test_of_one_who_led_twice_the_last_renewal_counts() -> None:
    known = leadership()
    for at in (NOON + SECOND, NOON - SECOND):
        known.remember("earlier", at)
    assert known.earlier == {"earlier": NOON + SECOND}
