"""What Gatepass itself is seen as: asked of echo services, of which two must agree."""

import asyncio
import ipaddress
import json
import socket
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from gatepass.core.errors import PartlyFoundError, SourceError
from gatepass.core.policy import is_public
from gatepass.core.ports import Clock
from gatepass.core.types.session import AccessSession, SourceAddress

ASK_SECONDS: Final = 3.0
"""For one service, from the lookup of its name to the last byte."""
KEPT_SECONDS: Final = 60.0
"""How long an answer is good: NAT gateways change theirs rarely, and sessions come in bursts."""
FAILURE_KEPT_SECONDS: Final = 2.0
_LONGEST_ANSWER: Final = 1024
_AGREEING: Final = 2
_FAMILIES: Final[Mapping[int, socket.AddressFamily]] = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class _Said:
    """What one service said: an address, or why that is none. Words of its own are never repeated."""

    host: str
    version: int
    address: str | None
    trouble: str = ""

    def __str__(self) -> str:
        return f"{self.host} over IPv{self.version}: {self.address or self.trouble}"


class OperatorFinder:
    """Asks all services over both IP families at once, and keeps the answer for a minute.

    One service alone may lie, or be asked by way of somebody who does: an address counts when services of two different
    hosts have seen it. No service can say that there is no address of a family, so that without two it is not known.
    """

    def __init__(self, urls: Sequence[str], clock: Clock) -> None:
        self._urls = tuple(urls)
        self._clock = clock
        self._asking = asyncio.Lock()
        self._answer: tuple[SourceAddress, ...] | SourceError = ()
        self._good_until = float("-inf")

    async def find(self, _session: AccessSession) -> Sequence[SourceAddress]:
        """The addresses on which services agree; raises SourceError, and PartlyFoundError where one family has none."""
        async with self._asking:
            if self._clock.monotonic() >= self._good_until:
                self._answer = await self._look()
                trouble = isinstance(self._answer, SourceError)
                found = not trouble or (isinstance(self._answer, PartlyFoundError) and not self._answer.heard)
                self._good_until = self._clock.monotonic() + (KEPT_SECONDS if found else FAILURE_KEPT_SECONDS)
        if isinstance(self._answer, SourceError):
            raise replace(self._answer)  # one of its own for each caller: raising writes into it
        return self._answer

    async def _look(self) -> tuple[SourceAddress, ...] | SourceError:
        if not self._urls:
            told = "spec.source.operator: there is nobody to ask (GATEPASS_ECHO_URLS)"
            return SourceError("NoEchoService", told, retry=True)
        found = await asyncio.gather(*(self._family(version) for version in _FAMILIES))
        said = [each for family in found for each in family]
        witnesses: defaultdict[tuple[int, str], set[str]] = defaultdict(set)
        for each in said:
            if each.address is not None:
                witnesses[each.version, each.address].add(each.host)
        agreed = {seen: hosts for seen, hosts in witnesses.items() if len(hosts) >= _AGREEING}
        now = self._clock.now()
        addresses = tuple(
            SourceAddress(
                ip=address,
                version=version,
                evidence=f"Gatepass is seen as this by {', '.join(sorted(hosts))}",
                observed_at=now,
            )
            for (version, address), hosts in sorted(agreed.items())
        )
        unsure = {each.version for each in said} - {each.version for each in addresses}
        if not unsure:
            return addresses
        heard = any(version in unsure for version, _ in witnesses)
        reason = "EchoDisagrees" if heard else "EchoUnreachable"
        told = "; ".join(str(each) for each in said if each.version in unsure)
        if not addresses:
            message = f"spec.source.operator: no two echo services agree: {told}"
            return SourceError(reason, message, retry=True)
        (family,) = unsure
        message = f"spec.source.operator: no two echo services agree over IPv{family}: {told}"
        return PartlyFoundError(reason, message, retry=True, addresses=addresses, heard=heard)

    async def _family(self, version: int) -> list[_Said]:
        connector = aiohttp.TCPConnector(family=_FAMILIES[version], force_close=True)
        # Nothing of one answer reaches the next: no cookies, and no proxy that the environment names.
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=ASK_SECONDS),
            auto_decompress=False,
            headers={"Accept": "text/plain, application/json", "Accept-Encoding": "identity", "User-Agent": "gatepass"},
        ) as session:
            return list(
                await asyncio.gather(*(_ask(session, url, version) for url in self._urls if _has(url, version)))
            )


def _has(url: str, version: int) -> bool:
    """Can the host have an address of the family? A host that is written as an address has that one only."""
    try:
        return ipaddress.ip_address(urlsplit(url).hostname or "").version == version
    except ValueError:
        return True


async def _ask(session: aiohttp.ClientSession, url: str, version: int) -> _Said:
    parts = urlsplit(url)
    host = parts.hostname or url
    if parts.hostname in ("127.0.0.1", "::1"):
        host = parts.netloc  # services of one machine, as in tests
    try:
        async with session.get(url, allow_redirects=False) as answer:
            if answer.status != 200:
                return _Said(host, version, None, f"answers {answer.status}")
            body = b""
            while len(body) <= _LONGEST_ANSWER and (chunk := await answer.content.read(_LONGEST_ANSWER + 1)):
                body += chunk
    except TimeoutError:
        return _Said(host, version, None, f"no answer within {ASK_SECONDS:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return _Said(host, version, None, f"cannot be asked ({type(error).__name__})")
    address, trouble = read_answer(body, version)
    return _Said(host, version, address, trouble)


def read_answer(body: bytes, version: int) -> tuple[str | None, str]:
    """The address in an answer, or why there is none: one line, or JSON with `ip` as Gatepass's own API answers."""
    if len(body) > _LONGEST_ANSWER:
        return None, "the answer is too long"
    try:
        text = body.decode("ascii").removesuffix("\n").removesuffix("\r")
        if text.startswith("{"):
            told = json.loads(text)
            text = told["ip"] if isinstance(told.get("ip"), str) else ""
        found = ipaddress.ip_address(text)
    except (ValueError, KeyError, RecursionError):
        return None, "the answer is no address"
    if str(found) != text:
        return None, "the address is not in canonical form"
    if found.version != version:
        return None, f"the address is not of IPv{version}"
    if not is_public(f"{found}/{found.max_prefixlen}"):
        return None, "the address is not a public one"
    return text, ""
