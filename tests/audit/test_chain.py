"""Laws of the encoding and of the chain: whatever is done to it without the key breaks it, and where is said."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gatepass.audit.chain import FIELDS, GENESIS, Checkpoint, MalformedError, Sealed, checkpoint, encode, sealed
from gatepass.audit.export import checkpoint_line, line, parse, parse_checkpoints, prove_lines
from gatepass.audit.keys import Key, KeyFileError, Keyring
from gatepass.audit.proof import BrokenError, Proof
from gatepass.core.audit import AuditEntry, EventType, Outcome, Subject
from tests.audit.entries import KEY, NEXT_KEY, NOON, a_chain, an_entry, prove

parts = st.lists(st.none() | st.integers() | st.text(st.characters(exclude_categories=("Cs",))), max_size=6)
texts = st.text(max_size=20)
entries = st.builds(
    AuditEntry,
    event=st.sampled_from([EventType.SESSION_STARTED, EventType.RULE_APPLIED, EventType.API_KEY_USED_DENIED]),
    at=st.datetimes(timezones=st.just(NOON.tzinfo)),
    namespace=texts,
    outcome=st.sampled_from(Outcome),
    actor=st.none() | texts,
    on_behalf_of=st.none() | texts,
    credential=st.none() | texts,
    address=st.none() | texts,
    request_id=st.none() | texts,
    subject=st.none() | st.builds(Subject, texts, texts, st.none() | texts),
    details=st.dictionaries(texts, texts, max_size=3),
)
chains = st.lists(entries, min_size=2, max_size=6).map(a_chain)


@given(parts, parts)
def test_no_two_lists_of_parts_share_an_encoding(one: list[Any], other: list[Any]) -> None:
    same = [(type(part), part) for part in one] == [(type(part), part) for part in other]
    assert (encode(*one) == encode(*other)) == same


def decode(encoded: bytes) -> list[Any]:
    """The parts again: what can be decoded is encoded in one way only."""
    found: list[Any] = []
    while encoded:
        tag, encoded = encoded[:1], encoded[1:]
        if tag == b"n":
            found.append(None)
            continue
        length, rest = int.from_bytes(encoded[:8], "big"), encoded[8:]
        text, encoded = rest[:length].decode(), rest[length:]
        found.append(int(text) if tag == b"i" else text)
    return found


@given(parts)
def test_an_encoding_can_be_decoded(found: list[Any]) -> None:
    assert decode(encode(*found)) == found


@given(parts, st.data())
def test_moving_text_between_neighbours_changes_the_encoding(found: list[Any], data: st.DataObject) -> None:
    text = data.draw(st.text("sni\0", min_size=1))  # the letters that the encoding itself uses
    cut, other = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))
    assume(cut != other)
    assert encode(*found, text[:cut], text[cut:]) != encode(*found, text[:other], text[other:])


@pytest.mark.parametrize("value", [1.0, True, b"x", ["x"], "\ud800"])
def test_what_is_never_written_is_not_encoded(value: Any) -> None:
    with pytest.raises(MalformedError):
        encode("x", value)


@given(entries)
def test_what_is_in_an_entry_is_what_a_database_keeps(entry: AuditEntry) -> None:
    for value in (entry.namespace, entry.actor or "", *entry.details, *entry.details.values()):
        assert "\0" not in value
        value.encode()


@given(chains)
def test_a_chain_as_it_was_written_is_whole(chain: list[Sealed]) -> None:
    verdict = prove(chain)
    assert (verdict.first, verdict.last, verdict.seal, verdict.vouched) == (1, len(chain), chain[-1].seal, True)


@given(chains, st.data())
def test_any_edit_breaks_it_at_that_entry(chain: list[Sealed], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(chain) - 1))
    field = data.draw(st.sampled_from([name for name in FIELDS if name != "seq"]))
    value = data.draw(st.none() | texts)
    assume(value != getattr(chain[place], field))
    chain[place] = dataclasses.replace(chain[place], **{field: value})
    with pytest.raises(BrokenError) as broken:
        prove(chain)
    assert broken.value.seq == place + 1


@given(chains, st.data())
def test_any_new_number_breaks_it(chain: list[Sealed], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(chain) - 1))
    chain[place] = dataclasses.replace(chain[place], seq=data.draw(st.integers().filter(lambda seq: seq != place + 1)))
    with pytest.raises(BrokenError):
        prove(chain)


@given(chains, st.data())
def test_any_deletion_but_of_the_end_breaks_it_there(chain: list[Sealed], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(chain) - 2))
    del chain[place]
    with pytest.raises(BrokenError) as broken:
        prove(chain)
    assert broken.value.seq == place + 1


@given(chains, st.data())
def test_any_other_order_breaks_it(chain: list[Sealed], data: st.DataObject) -> None:
    other = data.draw(st.permutations(chain))
    assume(other != chain)
    with pytest.raises(BrokenError):
        prove(other)
    renumbered = [dataclasses.replace(entry, seq=number) for number, entry in enumerate(other, 1)]
    with pytest.raises(BrokenError):
        prove(renumbered)


@given(chains, entries, st.data())
def test_any_insertion_or_replacement_without_the_key_breaks_it(
    chain: list[Sealed], foreign: AuditEntry, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(chain) - 1))
    forger = Key.of("a-key-of-somebody-else-who-has-not-ours")
    forged = dataclasses.replace(a_chain([foreign], forger)[0], seq=place + 1, previous=chain[place].previous)
    for key_id in (forger.id, chain[0].key_id):
        forged = dataclasses.replace(forged, key_id=key_id)
        for broken_chain in ([*chain[:place], forged, *chain[place + 1 :]], [*chain[:place], forged, *chain[place:]]):
            with pytest.raises(BrokenError) as broken:
                prove(broken_chain)
            assert broken.value.seq == place + 1


@given(chains, chains, st.data())
def test_an_entry_of_another_chain_of_the_same_key_breaks_it(
    chain: list[Sealed], other: list[Sealed], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, min(len(chain), len(other)) - 1))
    assume(other[place] != chain[place])
    with pytest.raises(BrokenError):
        prove([*chain[:place], other[place], *chain[place + 1 :], *a_chain([an_entry()])])


def test_a_beginning_that_is_gone_needs_a_voucher() -> None:
    chain = a_chain([an_entry(number) for number in range(5)])
    with pytest.raises(BrokenError, match="entry 2: it is missing"):
        prove(chain[2:])


def test_a_key_that_is_out_of_use_seals_nothing_more() -> None:
    old, new = Key.of(KEY), Key.of(NEXT_KEY)
    chain = a_chain([an_entry(1), an_entry(2)], old)
    rotated = [*chain, _next(chain, new)]
    assert prove(rotated, [KEY, NEXT_KEY]).keys == (old.id, new.id)
    with pytest.raises(BrokenError, match=r"entry 4: .*out of use"):
        prove([*rotated, _next(rotated, old)], [KEY, NEXT_KEY])
    with pytest.raises(BrokenError, match=r"entry 3: .*does not have"):
        prove(rotated, [KEY])


def _next(chain: list[Sealed], key: Key) -> Sealed:
    return sealed(an_entry(9), len(chain) + 1, chain[-1].seal, key)


# checkpoints


def _signed(chain: list[Sealed]) -> Checkpoint:
    return checkpoint(Key.of(KEY), 1, GENESIS, len(chain), chain[-1].seal, "2026-11-22T12:00:00.000000Z")


@given(chains, st.data())
def test_a_checkpoint_kept_elsewhere_shows_that_the_end_is_gone(chain: list[Sealed], data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, len(chain) - 1))
    proof = Proof(Keyring([Key.of(KEY)]), [_signed(chain)])
    for entry in chain[:kept]:
        proof.take(entry)
    with pytest.raises(BrokenError) as broken:
        proof.verdict()
    assert broken.value.seq == kept + 1


def test_a_checkpoint_kept_elsewhere_shows_that_the_end_was_written_anew() -> None:
    chain = a_chain([an_entry(1), an_entry(2), an_entry(3)])
    anew = a_chain([an_entry(1), an_entry(2), an_entry(4)])
    proof = Proof(Keyring([Key.of(KEY)]), [_signed(chain)])
    for entry in anew[:-1]:
        proof.take(entry)
    with pytest.raises(BrokenError, match=r"entry 3: .*vouches for"):
        proof.take(anew[-1])


@given(chains, st.data())
def test_a_checkpoint_that_was_changed_vouches_for_nothing(chain: list[Sealed], data: st.DataObject) -> None:
    field = data.draw(st.sampled_from([field.name for field in dataclasses.fields(Checkpoint)]))
    before = getattr(_signed(chain), field)
    value = data.draw(st.none() | (st.integers() if isinstance(before, int) else texts))
    assume(value != before)
    with pytest.raises(BrokenError):
        Proof(Keyring([Key.of(KEY)]), [dataclasses.replace(_signed(chain), **{field: value})])


# files


def _file(chain: list[Sealed]) -> list[str]:
    return [*(line(entry) + "\n" for entry in chain), checkpoint_line(_signed(chain)) + "\n"]


def _prove_lines(lines: list[str]) -> Proof:
    proof = Proof(Keyring([Key.of(KEY)]))
    prove_lines(proof, lines)
    return proof


@given(chains)
def test_an_exported_file_is_proven_without_a_database(chain: list[Sealed]) -> None:
    verdict = _prove_lines(_file(chain)).verdict()
    assert (verdict.first, verdict.last) == (1, len(chain))
    assert [parse(text.rstrip("\n")) for text in _file(chain)] == [*chain, _signed(chain)]
    assert parse_checkpoints(_file(chain)) == [_signed(chain)]


@given(chains, st.data())
def test_any_byte_of_a_file_that_is_changed_breaks_it(chain: list[Sealed], data: st.DataObject) -> None:
    lines = _file(chain)
    number = data.draw(st.integers(0, len(lines) - 1))
    place = data.draw(st.integers(0, len(lines[number]) - 2))
    other = data.draw(st.characters(codec="ascii", exclude_characters="\n" + lines[number][place]))
    lines[number] = lines[number][:place] + other + lines[number][place + 1 :]
    with pytest.raises(BrokenError) as broken:
        _prove_lines(lines).verdict()
    assert broken.value.seq <= number + 1


@given(chains, st.data())
def test_any_line_of_a_file_that_is_gone_breaks_it(chain: list[Sealed], data: st.DataObject) -> None:
    lines = _file(chain)
    begin = data.draw(st.integers(0, len(lines) - 1))
    end = data.draw(st.integers(begin + 1, len(lines)))
    del lines[begin:end]
    with pytest.raises(BrokenError):
        _prove_lines(lines).verdict()


@pytest.mark.parametrize(
    "changed",
    [
        lambda found: {**found, "note": "believe me"},
        lambda found: {name: found[name] for name in reversed(found)},
        lambda found: {**found, "seq": float(found["seq"])},
        lambda found: {**found, "details": json.dumps(found["details"])},
    ],
)
def test_a_line_that_says_the_same_otherwise_is_none_of_ours(changed: Any) -> None:
    lines = _file(a_chain([an_entry(1), an_entry(2)]))
    lines[1] = json.dumps(changed(json.loads(lines[1]))) + "\n"
    with pytest.raises(BrokenError, match=r"entry 2: (line 2 is no line|its number is none)"):
        _prove_lines(lines)


def test_files_that_follow_each_other_are_proven_as_one() -> None:
    chain = a_chain([an_entry(number) for number in range(5)])
    key = Key.of(KEY)
    second = checkpoint(key, 4, chain[2].seal, 5, chain[4].seal, "2026-11-22T13:00:00.000000Z")
    first_file = _file(chain[:3])
    second_file = [*(line(entry) for entry in chain[3:]), checkpoint_line(second)]
    both = _prove_lines([*first_file, *second_file]).verdict()
    assert (both.first, both.last, both.vouched) == (1, 5, True)
    alone = _prove_lines(second_file).verdict()
    assert (alone.first, alone.last, alone.vouched) == (4, 5, False)
    with pytest.raises(BrokenError):
        _prove_lines([*second_file, *first_file])
    with pytest.raises(BrokenError):
        _prove_lines([*first_file, *second_file[1:]])


# keys


def test_keys_never_show_themselves(tmp_path: Any) -> None:
    path = tmp_path / "keys"
    for text in (KEY[:20], "", f"{KEY}\n{KEY}\n"):
        path.write_text(text)
        with pytest.raises(KeyFileError) as refused:
            Keyring.read(path)
        assert KEY[:10] not in str(refused.value)
    path.write_bytes(KEY.encode() + b"\xff")
    with pytest.raises(KeyFileError) as refused:
        Keyring.read(path)
    assert KEY[:10] not in f"{refused.value} {refused.value.__cause__}"
    assert KEY not in repr(Key.of(KEY))
    with pytest.raises(KeyFileError, match="No such file"):
        Keyring.read(tmp_path / "none")
