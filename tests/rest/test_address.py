"""Who calls: nothing that a client writes changes it."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.rest.address import caller, parse

TRUSTED = tuple(ipaddress.ip_network(each) for each in ("10.0.0.0/8", "127.0.0.1/32", "fd00::/8"))
ADDRESSES = st.ip_addresses(v=4, network="203.0.113.0/24") | st.ip_addresses(v=6, network="2001:db8::/32")
HEADERS = st.lists(st.binary(max_size=60), max_size=4)


def seen(peer: str | None, *headers: str) -> str:
    lines = [(b"x-forwarded-for", line.encode("latin-1")) for line in headers]
    return str(caller({"client": None if peer is None else (peer, 1), "headers": lines}, TRUSTED))


@pytest.mark.parametrize(
    ("peer", "headers", "address"),
    [
        ("203.0.113.9", (), "203.0.113.9"),
        ("203.0.113.9", ("198.51.100.1",), "203.0.113.9"),  # no proxy of ours
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("",), "10.0.0.1"),
        ("10.0.0.1", ("203.0.113.9",), "203.0.113.9"),
        ("10.0.0.1", ("198.51.100.1, 203.0.113.9",), "203.0.113.9"),
        ("10.0.0.1", ("198.51.100.1", "203.0.113.9"), "203.0.113.9"),
        ("10.0.0.1", ("198.51.100.1, 203.0.113.9, 10.2.3.4",), "203.0.113.9"),
        ("10.0.0.1", ("198.51.100.1, 203.0.113.9", " 10.2.3.4 ,127.0.0.1"), "203.0.113.9"),
        ("10.0.0.1", ("10.9.9.9, 10.2.3.4",), "10.9.9.9"),  # somebody inside
        ("10.0.0.1", ("203.0.113.9:4711",), "203.0.113.9"),
        ("10.0.0.1", ("[2001:db8::7]:4711",), "2001:db8::7"),
        ("10.0.0.1", ("[2001:db8::7]",), "2001:db8::7"),
        ("10.0.0.1", ("2001:0db8:0:0:0:0:0:7",), "2001:db8::7"),
        ("10.0.0.1", ("::ffff:203.0.113.9",), "203.0.113.9"),
        ("::ffff:10.0.0.1", ("203.0.113.9",), "203.0.113.9"),
        ("::ffff:203.0.113.9", ("198.51.100.1",), "203.0.113.9"),
        ("fd00::1", ("2001:db8::7",), "2001:db8::7"),
        ("2001:db8::9", ("2001:db8::7",), "2001:db8::9"),
        ("10.0.0.1", ("203.0.113.9, unknown",), "None"),
        ("10.0.0.1", ("203.0.113.9, unknown, 10.2.3.4",), "None"),
        ("10.0.0.1", ("203.0.113.9, 1.2.3",), "None"),
        (None, ("203.0.113.9",), "None"),
    ],
)
def test_who_calls(peer: str | None, headers: tuple[str, ...], address: str) -> None:
    assert seen(peer, *headers) == address


@given(ADDRESSES, HEADERS)
def test_who_is_no_proxy_is_seen_as_it_is(address: ipaddress.IPv4Address, headers: list[bytes]) -> None:
    scope = {"client": (str(address), 1), "headers": [(b"x-forwarded-for", line) for line in headers]}
    assert caller(scope, TRUSTED) == address


@given(ADDRESSES, HEADERS)
def test_what_a_client_wrote_before_the_proxy_changes_nothing(
    address: ipaddress.IPv4Address, headers: list[bytes]
) -> None:
    lines = [(b"x-forwarded-for", line) for line in [*headers, str(address).encode()]]
    assert caller({"client": ("10.0.0.1", 1), "headers": lines}, TRUSTED) == address


@given(st.text())
def test_any_text_is_an_address_or_none(text: str) -> None:
    assert parse(text) is None or parse(str(parse(text))) == parse(text)
