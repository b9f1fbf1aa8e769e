"""`source.operator` on a real API server, with echo services of loopback."""

import time
from contextlib import ExitStack

from tests.e2e.echo import echo, echo6
from tests.e2e.product import Product
from tests.e2e.tenant import SESSION, condition, wait_for
from tests.rest.organisation import Organisation

SEEN, SEEN6 = "203.0.113.77", "2001:db8::77"


def test_it_opens_to_what_two_services_see(org: Organisation, service: Product) -> None:
    with ExitStack() as stack:
        urls = [stack.enter_context(echo(answer)) for answer in (f"{SEEN}\n", f'{{"ip": "{SEEN}"}}', "198.51.100.1")]
        stack.enter_context(service.with_settings(GATEPASS_ECHO_URLS=",".join(urls)))
        _, group = org.door("seen", policy={"sources": ["operator"]})
        org.session("seen", name="seen", source={"operator": {}})
        org.until_condition(SESSION, "seen", "Ready")
        assert org.open_to(group) == {f"{SEEN}/32"}
        (address,) = org.get(SESSION, "seen")["status"]["source"]["addresses"]
        assert all(url.split("/")[2] in address["evidence"] for url in urls[:2])
        org.until_stopped("seen")


def test_it_waits_and_says_so_when_no_two_agree(org: Organisation, service: Product) -> None:
    with ExitStack() as stack:
        urls = [stack.enter_context(echo(answer)) for answer in (SEEN, "198.51.100.1", "<html>")]
        stack.enter_context(service.with_settings(GATEPASS_ECHO_URLS=",".join(urls)))
        _, group = org.door("unseen", policy={"sources": ["operator"]})
        org.session("unseen", name="unseen", source={"operator": {}})
        told = org.until_condition(SESSION, "unseen", "SourceResolved", "False", "no two echo services agree")
        assert told["reason"] == "EchoDisagrees"
        assert all(url.split("/")[2] in told["message"] for url in urls)
        item = org.get(SESSION, "unseen")
        assert (item["status"]["phase"], condition(item, "Settled")["status"]) == ("Pending", "False")
        assert org.open_to(group) == set()
        seen = int(time.time())
        wait_for(lambda: time.time() >= seen + 1, "what comes now is younger than this process, also in whole seconds")
        org.session("unseen", name="later", source={"operator": {}})
        org.until_condition(SESSION, "later", "SourceResolved", "False", "no two echo services agree")
        org.until_stopped("later")


def test_a_family_that_loses_its_quorum_keeps_its_rule(org: Organisation, service: Product) -> None:
    """Also over a restart, after which nothing but the session's record tells of the address."""
    unsure = [SEEN6]
    with ExitStack() as stack:
        urls = [stack.enter_context(echo(SEEN)) for _ in range(2)]
        urls += [stack.enter_context(echo6(SEEN6)), stack.enter_context(echo6(lambda: unsure[0]))]
        stack.enter_context(service.with_settings(GATEPASS_ECHO_URLS=",".join(urls)))
        _, group = org.door("both", policy={"sources": ["operator"], "followAddressChanges": True})
        org.session("both", name="both", source={"operator": {}})
        org.until_condition(SESSION, "both", "Ready")
        assert org.open_to(group) == {f"{SEEN}/32", f"{SEEN6}/128"}
        service.kill()
        unsure[0] = "<html>busy</html>"
        service.start()
        told = org.until_condition(SESSION, "both", "SourceResolved", "True", "no two echo services agree over IPv6")
        assert told["reason"] == "FoundBefore"
        assert org.open_to(group) == {f"{SEEN}/32", f"{SEEN6}/128"}
        assert condition(org.get(SESSION, "both"), "Ready")["status"] == "True"
        org.until_stopped("both")
