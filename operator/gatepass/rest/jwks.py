"""Where an issuer publishes its keys, read without becoming a way into the network."""

import asyncio
import errno
import ipaddress
import json
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from joserfc.jwk import KeySet

from gatepass.rest.address import Address

SECONDS: Final = 5.0
"""How long an issuer may take to give its keys."""
LARGEST: Final = 256 * 1024
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Issuers:
    """Whose tokens are taken. `private` are those of them that may be at addresses that are not public.

    `ca_file` has certificates, as PEM, of authorities that vouch for issuers beside the system's own.
    """

    listed: Sequence[str] = ()
    private: Sequence[str] = ()
    ca_file: Path | None = None


async def published(issuer: str, issuers: Issuers) -> KeySet:
    """The keys of an issuer, found by discovery.

    Raises OSError, TimeoutError, aiohttp.ClientError, ValueError, KeyError, TypeError or JoseError when it is not
    there, not who it says, elsewhere than it may be, or gives no keys.
    """
    # One that is listed by a literal address of this machine is one of a sandbox, and its keys are there too.
    near = _loopback(issuer) or issuer in issuers.private
    tls = ssl.create_default_context()
    if issuers.ca_file is not None:
        tls.load_verify_locations(issuers.ca_file)
    connector = aiohttp.TCPConnector(resolver=None if near else PublicOnly(), ssl=tls, force_close=True)
    async with asyncio.timeout(SECONDS), aiohttp.ClientSession(connector=connector) as http:
        document = await _json(http, f"{issuer}/.well-known/openid-configuration", near=near)
        if document["issuer"] != issuer:
            raise ValueError(f"says that it is {document['issuer']!r}")
        where = str(document["jwks_uri"])
        if _loopback(where) != _loopback(issuer):
            raise ValueError(f"publishes its keys at {where!r}")
        return KeySet.import_key_set(await _json(http, where, near=near))


async def _json(http: aiohttp.ClientSession, url: str, *, near: bool) -> Any:
    address = _literal(url)
    if not url.startswith("https://") and not _loopback(url):
        raise ValueError(f"{url} is not https")
    if not near and address is not None and not is_public(address):
        raise ValueError(f"{url} is not public")
    async with http.get(url, allow_redirects=False, headers={"Accept": "application/json"}) as answer:
        if answer.status != 200:
            raise ValueError(f"{url} answers {answer.status}")
        data = await answer.content.read(LARGEST + 1)
        while len(data) <= LARGEST and (more := await answer.content.read(LARGEST + 1 - len(data))):
            data += more
    if len(data) > LARGEST:
        raise ValueError(f"{url} is larger than {LARGEST} bytes")
    return json.loads(data)


def _loopback(url: str) -> bool:
    """Is it an address of this machine? A name that leads there is none."""
    address = _literal(url)
    return address is not None and address.is_loopback


def _literal(url: str) -> Address | None:
    """The address that a URL has instead of a name; no resolver is asked about it."""
    try:
        return ipaddress.ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Is it anybody's, and not of this machine, its network or its cloud?

    An IPv6 address that stands for one of IPv4 is as public as that one.
    """
    if address.version == 6:
        inside = address.ipv4_mapped or address.sixtofour
        if inside is None and address in _NAT64:
            inside = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inside is not None:
            return is_public(inside)
    return address.is_global and not address.is_multicast


class PublicOnly(AbstractResolver):
    """Of a name's addresses only those that are public: one that has none, or turns private later, leads nowhere."""

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The public addresses of a name; raises OSError when there is none."""
        found = await self._resolver.resolve(host, port, family)
        public = [each for each in found if is_public(ipaddress.ip_address(each["host"]))]
        if not public:
            raise OSError(errno.EHOSTUNREACH, f"{host} has no public address")
        return public

    async def close(self) -> None:
        """Nothing is open."""
