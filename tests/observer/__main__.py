"""The observer as a process: `python -m tests.observer`, told by lines of JSON on its standard input.

The first line says where everything is (`Scene`); each further one is a command, answered by one line of JSON on
the standard output. It shares no code with what it observes, but the sandbox's two small clients.
"""

import contextlib
import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from gatepass.sandbox.ec2.client import Ec2Control
from gatepass.sandbox.kubeapi import KubeApi, KubeApiError
from tests.observer.book import NEVER, Holder, Item
from tests.observer.finals import summary
from tests.observer.judge import HEARING_SECONDS, Judge
from tests.observer.ledger import effect_of
from tests.observer.streams import PATHS, Asker, Gone, Heard, Listings, Permitted, Readiness, Ready, Seen, Watch

_PAUSE_SECONDS = 0.04
_AGAIN_SECONDS = 2.0
_KEPT_SECONDS = 32.0
_LISTING_SECONDS = 0.5
_LOOK_SECONDS = 0.5
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Scene:
    """Where everything is. `health_url` is None for an operator that always counts as able.

    `afterwards`: only write down what is heard, and judge it all when asked, so that what is measured meanwhile is
    not disturbed.
    """

    server: str
    ca: str
    token: str
    endpoint_url: str
    region: str
    account: str
    owner: str
    health_url: str | None
    resync_seconds: float
    afterwards: bool


class Observation:
    """One observer at work."""

    def __init__(self, scene: Scene) -> None:
        self._afterwards = scene.afterwards
        self._api = KubeApi(scene.server, Path(scene.ca), scene.token)
        self._listings = Listings(self._api)
        self._ec2 = Ec2Control(scene.endpoint_url, scene.region, scene.account)
        self._heard: Heard = queue.SimpleQueue()
        self.judge = Judge(scene.owner, scene.resync_seconds)
        self._ready, self._reachable = scene.health_url is None, True
        self._versions: dict[str, int] = {}
        self._listed_versions: dict[str, int] = {}
        self._listed = self._last_asked = 0.0
        self._seq = self._ec2.last()
        self._told: set[tuple[str, object]] = set()
        self._statuses: list[Item] = []
        self._permitted: dict[Holder, float] = {}
        self._failure = ""
        self.gone = 0
        now = time.time()
        self.judge.able(now, able=self._ready)
        for group, rules in self._ec2.rules().items():
            self.judge.ledger.begin(group, rules or [], now)
        self._asker = Asker(KubeApi(scene.server, Path(scene.ca), scene.token), self._heard)
        self._asker.start()
        self._list()
        for kind, version in self._listed_versions.items():
            Watch(kind, scene.server, scene.ca, scene.token, version, self._heard).start()
        if scene.health_url is not None:
            Readiness(scene.health_url, self._heard).start()

    def step(self) -> None:
        """Hear what there is, and judge."""
        now = time.time()
        self._hear_all()
        self._read_log()
        self.judge.look(time.time(), self._listed)
        if self.judge.needs_listing and time.time() - self._listed > _LISTING_SECONDS:
            self._catch_up_once()
        if now - self._last_asked > _AGAIN_SECONDS:
            self._last_asked = now
            for holder in self.judge.book.undecided():
                self._asker.ask(holder, self.judge.book.sessions[holder.uid])

    def command(self, name: str, **given: Any) -> Any:
        """Do what the tests say; see `Observer`."""
        now = time.time()
        match name:
            case "touching":
                self.catch_up()
                self.judge.touching(set(given["ids"]))
            case "runner_lost":
                self.judge.loses(given["uid"], given["seconds"], given["at"] or now)
            case "comes_from":
                self.judge.book.origins.update(given["origins"])
            case "blind":
                if not given["blind"]:
                    self.catch_up()
                self.judge.blind(given["group"], now, blind=given["blind"])
            case "reachable":
                self._reachable = given["reachable"]
                self.judge.reaches(now, reaches=self._reachable)
                self.judge.able(now, able=self._ready and self._reachable)
            case "read_lag":
                self.judge.read_lag_seconds = given["seconds"]
            case "catch_up":
                self.catch_up()
            case "breaches":
                self.catch_up()
                news = [key for key in self.judge.breaches if key not in self._told]
                self._told.update(news)
                return [asdict(self.judge.breaches[key]) for key in news]
            case "statuses":
                statuses, self._statuses = self._statuses, []
                return statuses
            case "summary":
                self.catch_up()
                return {**summary(self.judge, time.time()), "watches_gone": self.gone}
        return None

    def catch_up(self) -> None:
        """Look at everything that is true now. Raises TimeoutError when an outage lasts too long for that."""
        if self._afterwards:
            self._replay()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for _ in range(2):  # what the first look suspects the second one confirms
            while not self._catch_up_once():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the observer cannot list the objects: {self._failure}")
                time.sleep(_PAUSE_SECONDS)

    def _catch_up_once(self) -> bool:
        if not self._list():
            return False
        self._hear_all()  # what came and went before the listing, it does not show
        self._read_log()
        self.judge.look(time.time(), self._listed)
        return True

    def _replay(self) -> None:
        """Take what was written down in the order in which it happened, and judge as one would have then."""
        entries, self._seq, _ = self._ec2.follow(self._seq)
        tape: list[tuple[float, Callable[[], None]]] = [
            *((each.at, partial(self._hear, each)) for each in self._all_heard()),
            *((at, partial(self.judge.happened, each, at)) for each in entries for at in [effect_of(each)]),
        ]
        looked = NEVER
        for at, take in sorted(tape, key=itemgetter(0)):
            if at > looked + _LOOK_SECONDS:
                self.judge.look(at, at - HEARING_SECONDS)
                looked = at
            take()

    def _all_heard(self) -> Iterator[Seen | Ready | Gone | Permitted]:
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._heard.get_nowait()

    def _hear_all(self) -> None:
        for heard in self._all_heard():
            self._hear(heard)

    def _list(self) -> bool:
        began = time.time()
        try:
            found = {kind: self._listings.read(kind) for kind in PATHS}
        except (OSError, KubeApiError) as error:
            self._failure = str(error)
            return False
        for kind, (items, version) in found.items():
            book = self.judge.book
            known = {each["metadata"]["uid"]: each for each in getattr(book, kind).values()}
            for item in items:
                before = known.pop(item["metadata"]["uid"], None)
                if before is None or _version(before) < _version(item):
                    self._see(kind, item, time.time())
            for item in known.values():
                if _version(item) <= version:
                    book.lose(kind, item, time.time())
            self._listed_versions[kind] = version
        self._listed = began
        return True

    def _hear(self, heard: Seen | Ready | Gone | Permitted) -> None:
        match heard:
            case Seen(kind, item, gone, now):
                if _version(item) <= self._listed_versions[kind]:  # the listing was newer
                    if not gone:
                        self.judge.missed(kind, item, now)
                    return
                if gone:
                    self.judge.book.lose(kind, item, now)
                else:
                    self._see(kind, item, now)
            case Ready(ready, now):
                self._ready = ready
                self.judge.able(now, able=ready and self._reachable)
            case Permitted(holder, permitted, now):
                # What was allowed until half a minute ago may be done: so long is an answer kept, as documented.
                if permitted:
                    self._permitted[holder] = now
                until = self._permitted.get(holder, NEVER) + _KEPT_SECONDS
                if permitted or now > until:
                    self.judge.book.permit(holder, now, permitted=permitted, until=until)
            case Gone():
                self.gone += 1
                self.judge.needs_listing = True

    def _see(self, kind: str, item: Item, now: float) -> None:
        new = kind == "sessions" and item["metadata"]["uid"] not in self.judge.book.sessions
        self.judge.saw(kind, item, now)
        if kind == "sessions" and item.get("status"):
            self._statuses.append(item)
        if new:
            for holder in self.judge.book.holders(item):
                self._asker.ask(holder, item)

    def _read_log(self) -> None:
        try:
            entries, self._seq, under_way = self._ec2.follow(self._seq)
        except OSError:
            return
        now = time.time()
        for entry in entries:
            self.judge.happened(entry, now)
        self.judge.ledger.under_way(under_way, now)


def _version(item: Item) -> int:
    return int(item["metadata"]["resourceVersion"])


def _lines() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Observe until the standard input ends."""
    lines = _lines()
    scene = Scene(**next(lines))
    observation = Observation(scene)
    _say({"answer": "observing"})
    commands: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def read() -> None:
        for line in lines:
            commands.put(line)
        commands.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        if not scene.afterwards:
            observation.step()
        with contextlib.suppress(queue.Empty):
            if (command := commands.get(timeout=None if scene.afterwards else _PAUSE_SECONDS)) is None:
                return
            try:
                answer = {"answer": observation.command(**command)}
            except TimeoutError as error:
                answer = {"error": str(error)}
            _say(answer)


if __name__ == "__main__":
    main()
