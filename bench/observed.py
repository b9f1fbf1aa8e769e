"""The observer beside a measurement: it writes down what happens meanwhile, and judges it when that is over."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.observer.observer import Observer, install_id

from bench.figures import Figure
from gatepass.sandbox.environment import Sandbox

RESYNC_SECONDS = 600.0
BROKEN = "breaches of the promise, by the observer"


@contextmanager
def observed(sandbox: Sandbox) -> Iterator[Observer]:
    """Whether the promise is kept, by an observer that takes the operator for able all the time."""
    with Observer(sandbox, install_id(sandbox), RESYNC_SECONDS, trusting=False, afterwards=True) as observer:
        yield observer


def breaches(observer: Observer) -> list[str]:
    """What has been broken so far, a line each."""
    return [str(breach) for breach in observer.take_breaches()]


def figure(found: list[str]) -> Figure:
    """How often it was broken."""
    return Figure(BROKEN, len(found), "", bar=0)
