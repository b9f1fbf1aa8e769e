"""Echo services of loopback that are right, lie, hang, redirect and worse."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gatepass.core.errors import PartlyFoundError, SourceError
from gatepass.core.types.session import SourceAddress
from gatepass.egress import operator
from gatepass.egress.operator import OperatorFinder, read_answer
from tests.core.builders import a_session

HERE, THERE, SIX = "203.0.113.7", "203.0.113.99", "2001:db8::7"
SESSION = a_session(source={"operator": {}})
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HandClock:
    """Time that only a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 11, 22, 12, 0, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.seconds


class Echo:
    """A service that answers as it was told, and counts who asked."""

    def __init__(self, answer: str | bytes | Handler) -> None:
        self.answer = answer
        self.asked = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if callable(self.answer):
            return await self.answer(request)
        body = self.answer if isinstance(self.answer, bytes) else self.answer.encode()
        return web.Response(body=body)


@asynccontextmanager
async def serving(*services: Echo, host: str = "127.0.0.1") -> AsyncIterator[list[str]]:
    async with AsyncExitStack() as stack:
        urls = []
        for service in services:
            application = web.Application()
            application.router.add_get("/{path:.*}", service.handle)
            runner = web.AppRunner(application, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, host, 0)
            await site.start()
            assert runner.addresses
            port = runner.addresses[0][1]
            urls.append(f"http://[{host}]:{port}/ip" if ":" in host else f"http://{host}:{port}/ip")
        yield urls


async def found(*services: Echo) -> list[str]:
    async with serving(*services) as urls:
        return [address.ip for address in await OperatorFinder(urls, HandClock()).find(SESSION)]


async def refused(*services: Echo) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await found(*services)
    return caught.value


async def test_two_that_agree_are_believed() -> None:
    async with serving(Echo(HERE), Echo(f"{HERE}\n")) as urls:
        (address,) = await OperatorFinder(urls, HandClock()).find(SESSION)
    assert (address.ip, address.version) == (HERE, 4)
    assert all(url.split("/")[2] in address.evidence for url in urls)
    assert address.observed_at == HandClock().now()


async def test_gatepasss_own_api_is_a_service_too() -> None:
    assert await found(Echo(HERE), Echo('{"ip": "203.0.113.7", "version": "IPv4"}')) == [HERE]


async def test_both_families() -> None:
    async with serving(Echo(HERE), Echo(HERE)) as four, serving(Echo(SIX), Echo(SIX), host="::1") as six:
        addresses = await OperatorFinder([*four, *six], HandClock()).find(SESSION)
    assert [(each.ip, each.version) for each in addresses] == [(HERE, 4), (SIX, 6)]


@pytest.mark.parametrize("lost", [4, 6])
async def test_a_family_without_two_that_agree_is_not_known(lost: int) -> None:
    echoes, clock = {4: (Echo(HERE), Echo(HERE)), 6: (Echo(SIX), Echo(SIX))}, HandClock()
    async with serving(*echoes[4]) as four, serving(*echoes[6], host="::1") as six:
        finder = OperatorFinder([*four, *six], clock)
        await finder.find(SESSION)
        unsure, clock.seconds = echoes[lost][1], operator.KEPT_SECONDS
        unsure.answer = "<html>busy</html>"
        for _ in range(2):
            with pytest.raises(PartlyFoundError) as caught:
                await finder.find(SESSION)
            assert [each.ip for each in caught.value.addresses] == [SIX if lost == 4 else HERE]
        told = caught.value
        assert (told.reason, told.retry, told.heard) == ("EchoDisagrees", True, True)
        assert f"no two echo services agree over IPv{lost}: " in told.message
        assert all(
            (url.split("/")[2] in told.message) is (url in (four if lost == 4 else six)) for url in (*four, *six)
        )
        assert unsure.asked == 2, "what is known of the other family is as good as ever"
        unsure.answer, clock.seconds = (HERE if lost == 4 else SIX), 2 * operator.KEPT_SECONDS
        assert [each.ip for each in await finder.find(SESSION)] == [HERE, SIX]


async def test_a_family_over_which_nobody_can_be_asked_is_not_known() -> None:
    async with serving(Echo(SIX), Echo(SIX), host="::1") as six:
        pass
    async with serving(Echo(HERE), Echo(HERE)) as four:
        with pytest.raises(PartlyFoundError) as caught:
            await OperatorFinder([*four, *six], HandClock()).find(SESSION)
    assert ([each.ip for each in caught.value.addresses], caught.value.reason) == ([HERE], "EchoUnreachable")
    assert not caught.value.heard


async def test_one_that_lies_is_outvoted() -> None:
    assert await found(Echo(HERE), Echo(THERE), Echo(HERE)) == [HERE]


async def test_one_alone_is_not_enough_and_neither_are_two_that_differ() -> None:
    told = await refused(Echo(HERE))
    assert (told.reason, told.retry) == ("EchoDisagrees", True)
    told = await refused(Echo(HERE), Echo(THERE))
    assert told.reason == "EchoDisagrees"
    assert HERE in told.message
    assert THERE in told.message


async def test_one_host_is_one_witness() -> None:
    """The same service by two URLs must not agree with itself."""
    async with serving(Echo(HERE)) as (url,):
        with pytest.raises(SourceError):
            await OperatorFinder([url, url.replace("/ip", "/other")], HandClock()).find(SESSION)


async def redirect(request: web.Request) -> web.Response:
    if request.path == "/there":
        return web.Response(text=HERE)
    raise web.HTTPFound("/there")


async def hang(_request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def trickle(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b" ")
        await asyncio.sleep(0.02)


async def endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(HERE.encode() * 1000)


async def broken(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (redirect, "answers 302"),
        (hang, "no answer within"),
        (trickle, "no answer within"),
        (endless, "too long"),
        (broken, "cannot be asked"),
        ("<html>203.0.113.7</html>", "no address"),
        (f"{HERE}\n{THERE}", "no address"),
        (f"{HERE} ", "no address"),
        ("", "no address"),
        ("10.1.2.3", "not a public one"),
        ("127.0.0.1", "not a public one"),
        ("169.254.169.254", "not a public one"),
        ("100.64.0.1", "not a public one"),
        ("203.0.113.0/24", "no address"),
        ("0xcb007107", "no address"),
        (SIX, "not of IPv4"),
        (b"\xff\xfe", "no address"),
        ('{"ip": ["203.0.113.7"]}', "no address"),
        ('{"address": "203.0.113.7"}', "no address"),
        ("[" * 1000, "no address"),
    ],
)
async def test_what_is_no_answer_counts_for_nothing(
    answer: str | bytes | Handler, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if told.startswith("no answer within"):
        monkeypatch.setattr(operator, "ASK_SECONDS", 1.0)
    refusal = await refused(Echo(answer), Echo(answer))
    assert refusal.reason == "EchoUnreachable"
    assert (
        refusal.message.count(f"over IPv4: {told}")
        + refusal.message.count(f"over IPv4: the answer is {told}")
        + (refusal.message.count(f"over IPv4: the address is {told}"))
        == 2
    ), refusal.message
    assert "<html>" not in refusal.message
    assert await found(Echo(HERE), Echo(answer), Echo(HERE)) == [HERE]


async def test_nobody_there_is_told_by_name() -> None:
    async with serving(Echo(HERE), Echo(HERE)) as urls:
        pass
    with pytest.raises(SourceError) as caught:
        await OperatorFinder(urls, HandClock()).find(SESSION)
    assert caught.value.reason == "EchoUnreachable"
    assert all(url.split("/")[2] in caught.value.message for url in urls)


async def test_an_answer_is_kept_for_a_minute_and_asked_once_for_many() -> None:
    one, other, clock = Echo(HERE), Echo(HERE), HandClock()
    async with serving(one, other) as urls:
        finder = OperatorFinder(urls, clock)
        asked: list[tuple[SourceAddress, ...]] = await asyncio.gather(*(finder.find(SESSION) for _ in range(50)))
        assert {each[0].ip for each in asked} == {HERE}
        before = one.asked
        clock.seconds = operator.KEPT_SECONDS - 1
        await finder.find(SESSION)
        assert one.asked == before
        clock.seconds = operator.KEPT_SECONDS
        await finder.find(SESSION)
        assert one.asked == 2 * before


async def test_a_failure_is_kept_for_a_moment_only() -> None:
    liar, clock = Echo("junk"), HandClock()
    async with serving(Echo(HERE), liar) as urls:
        finder = OperatorFinder(urls, clock)
        for seconds, failures in ((0.0, True), (1.0, True), (operator.FAILURE_KEPT_SECONDS, False)):
            clock.seconds = seconds
            if failures:
                with pytest.raises(SourceError):
                    await finder.find(SESSION)
                liar.answer = HERE
            else:
                assert [each.ip for each in await finder.find(SESSION)] == [HERE]


async def test_without_services_there_is_nobody_to_ask() -> None:
    with pytest.raises(SourceError, match="GATEPASS_ECHO_URLS"):
        await OperatorFinder([], HandClock()).find(SESSION)


@given(st.binary(max_size=1100), st.sampled_from([4, 6]))
def test_no_answer_breaks_the_reader(body: bytes, version: int) -> None:
    address, trouble = read_answer(body, version)
    assert (address is None) == bool(trouble)
