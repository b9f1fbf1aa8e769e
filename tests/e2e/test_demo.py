"""The tour as a person runs it: it holds, and says so when it does not."""

import subprocess
import sys
from collections.abc import Mapping

from gatepass.sandbox.environment import Sandbox


def _run(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_tour_holds() -> None:
    tour = _run("gatepass", "demo")
    assert tour.returncode == 0, tour.stdout + tour.stderr
    told = [
        "the office's rule is the only one of staging-db",
        "accesssession.gatepass.dev/it-42 condition met",
        "Ready after ",
        "from 203.0.113.7/32",
        "gatepass until=",
        "both share the one rule, sgr-",
        "it-42 has ended",
        "is still there",
        "not before its time",
        'needs the verb "use"',
        "12h is above the 2h that ProtectedResource shop/staging-db allows",
        "nothing was opened",
        "Everything that was said held",
    ]
    places = [tour.stdout.find(line) for line in told]
    assert -1 not in places, told[places.index(-1)]
    assert places == sorted(places), "the steps come in another order"
    assert "\x1b" not in tour.stdout, "colour is for terminals"


def test_a_step_that_fails_is_named(sandbox: Sandbox) -> None:
    not_an_admin = {**sandbox.env, "KUBECONFIG": str(sandbox.operator_kubeconfig)}
    tour = _run("gatepass.sandbox.demo", env=not_an_admin)
    assert tour.returncode == 1, tour.stdout + tour.stderr
    assert "Failed in step 2, A door that sessions may open:\nkubectl create failed: " in tour.stdout
    assert 'cannot create resource "namespaces"' in tour.stdout
    assert "Everything that was said held" not in tour.stdout
