"""The format of API keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.core.keys import ENTROPY_BYTES, key_hash, key_id, make_key

ENTROPY = st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES)


@given(ENTROPY)
def test_a_key_is_one_word_that_scanners_can_match(entropy: bytes) -> None:
    key = make_key(entropy)
    assert key.startswith("gp_live_")
    assert len(key) == 65
    assert key.isascii()
    assert key.replace("_", "").isalnum()


@given(ENTROPY, ENTROPY)
def test_other_entropy_is_another_key(one: bytes, two: bytes) -> None:
    assert (make_key(one) == make_key(two)) == (one == two)
    assert (key_hash(make_key(one)) == key_hash(make_key(two))) == (one == two)


@given(ENTROPY)
def test_the_id_tells_nothing_of_the_secret(entropy: bytes) -> None:
    assert key_id(make_key(entropy)) == key_id(make_key(entropy[:5] + bytes(32)))


@given(ENTROPY, st.integers(0, 64), st.characters())
def test_one_character_changed_is_no_key(entropy: bytes, at: int, character: str) -> None:
    key = make_key(entropy)
    changed = key[:at] + character + key[at + 1 :]
    assert key_id(changed) == (key_id(key) if changed == key else None)


@given(st.text(max_size=80))
def test_other_text_is_no_key(text: str) -> None:
    assert key_id(text) is None


@pytest.mark.parametrize("length", [0, ENTROPY_BYTES - 1, ENTROPY_BYTES + 1])
def test_less_entropy_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=str(ENTROPY_BYTES)):
        make_key(bytes(length))
