"""Watches, beside the tests, whether the promise is kept: reads the truth again and again, and notes each breach.

The promise: no rule of ours stays open for which nobody is entitled; no door is closed that a live session has been
told is open; no rule of anybody else is touched; and an end is final.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from gatepass.sandbox.cloud import ACCOUNT, REGION
from gatepass.sandbox.ec2.client import Ec2Control
from gatepass.sandbox.kubeapi import KubeApi, KubeApiError
from tests.observer.promise import Door, Objects, Promised, door_of, is_ours

LATENESS_SECONDS = 2.0
PAUSE_SECONDS = 0.04
_PATIENCE_SECONDS = 30.0
_API = "/apis/gatepass.dev/v1alpha1"
Rules = dict[str, list[dict[str, Any]]]


@dataclass
class Breach:
    """The promise was broken: how, where, and for how long as far as was seen."""

    kind: str
    what: str
    seconds: float = 0.0
    since: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        lasted = f", for {self.seconds:.2f} s" if self.seconds else ""
        return f"{self.kind}: {self.what}{lasted}"


@dataclass
class Excuses:
    """What the test itself does to rules, told beforehand: nobody else may."""

    touched: set[str] = field(default_factory=set)
    removed: dict[tuple[str, Door], float] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)


class Observer:
    """Polls the emulator's true rules and the API server's objects in a thread of its own; use it in a `with`.

    `ready` says whether the operator works at present: lateness counts only while it does. `owner` is the install id.
    `resync_seconds` is how long a door may stay closed after the test has removed its rule.
    """

    def __init__(
        self, api: KubeApi, ec2: Ec2Control, owner: str, ready: Callable[[], bool], resync_seconds: float
    ) -> None:
        self._api, self._ec2, self._owner, self._ready = api, ec2, owner, ready
        self._resync = resync_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._lock = threading.Lock()
        self._excuses = Excuses()
        self._places = {(ACCOUNT, REGION)}
        self._objects: Objects | None = None
        self._rules: Rules = {}
        self._uptime = 0.0
        self._was_ready_at: float | None = None
        self._foreign: dict[str, dict[str, Any]] = {}
        self._seen: set[str] = set()
        self._idle: dict[str, float] = {}
        self._breaches: dict[tuple[str, object], Breach] = {}
        self._told: set[tuple[str, object]] = set()
        self._ends: dict[str, tuple[str, str]] = {}
        self.rounds = 0
        self.failure: str | None = None
        self.statuses: dict[tuple[str, str], dict[str, Any]] = {}

    def __enter__(self) -> "Observer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._api.close()

    # what tests say

    def touching(self, *ids: str) -> None:
        """The test is about to change or remove these rules itself."""
        self.catch_up()
        with self._lock:
            self._excuses.touched.update(ids)
            for group, rules in self._rules.items():
                for rule in rules:
                    if rule["securityGroupRuleId"] in ids and (door := door_of(rule)) is not None:
                        self._excuses.removed[group, door] = self._uptime

    @contextmanager
    def blind_for(self, group: str) -> Iterator[None]:
        """The test makes it impossible to keep the promise in this group, and says so."""
        with self._lock:
            self._excuses.groups.add(group)
        yield
        self.catch_up()
        with self._lock:
            self._excuses.groups.discard(group)

    def catch_up(self) -> None:
        """Return when everything that is true now has been looked at."""
        goal, deadline = self.rounds + 2, time.monotonic() + _PATIENCE_SECONDS
        while self.rounds < goal:
            assert time.monotonic() < deadline, f"the observer is stuck: {self.failure}"
            assert self._thread.is_alive(), f"the observer has died: {self.failure}"
            time.sleep(0.005)

    def take_breaches(self) -> list[Breach]:
        """The breaches that were not taken yet, up to now."""
        self.catch_up()
        with self._lock:
            news = self._breaches.keys() - self._told
            self._told |= news
            return [self._breaches[key] for key in news]

    # the thread

    def _run(self) -> None:
        while not self._ended.wait(PAUSE_SECONDS):
            try:
                self._count_uptime(self._ready())
                objects = self._read_objects()
                rules = self._read_rules(objects)
            except (OSError, ValueError, KeyError, KubeApiError) as error:
                self.failure = repr(error)  # an outage that a test makes; `catch_up` tells if it stays
                self._was_ready_at = None
                continue
            with self._lock:
                self._look(objects, rules)
                self.rounds += 1

    def _count_uptime(self, ready: bool) -> None:
        now = time.monotonic()
        if ready and self._was_ready_at is not None:
            self._uptime += now - self._was_ready_at
        self._was_ready_at = now if ready else None

    def _read_objects(self) -> Objects:
        sessions = self._api.request("GET", f"{_API}/accesssessions")["items"]
        resources = self._api.request("GET", f"{_API}/protectedresources")["items"]
        namespaces = self._api.request("GET", "/api/v1/namespaces")["items"]
        return Objects(sessions, resources, {each["metadata"]["name"]: each for each in namespaces})

    def _read_rules(self, objects: Objects) -> Rules:
        found: Rules = {}
        for resource in objects.resources:
            if account := resource.get("status", {}).get("account"):
                self._places.add((account, resource["spec"]["aws"]["region"]))
        for account, region in self._places:
            groups = self._ec2.rules(account=account, region=region)
            found.update({group: rules for group, rules in groups.items() if rules is not None})
        return found

    def _look(self, objects: Objects, rules: Rules) -> None:
        now = datetime.now(UTC)
        if self._objects is not None:
            # The rules of the last round were read between the last listing and this one.
            self._look_for_gaps(self._objects.promised(now) & objects.promised(now))
        self._objects, self._rules = objects, rules
        self._look_at_foreign_rules(rules)
        self._look_for_open_doors(objects.granted(now), rules)
        self._look_at_ends(objects)

    def _look_for_open_doors(self, granted: Mapping[tuple[str, Door], str], rules: Rules) -> None:
        present = set()
        for group, members in rules.items():
            for rule in members:
                door, id_ = door_of(rule), rule["securityGroupRuleId"]
                if door is None or id_ in self._foreign or (group, door) in granted or group in self._excuses.groups:
                    continue
                present.add(id_)
                late = self._uptime - self._idle.setdefault(id_, self._uptime)
                if late > LATENESS_SECONDS:
                    self._note("left open", id_, f"{id_} in {group}: {door}, {rule.get('description')}", late)
        self._idle = {id_: since for id_, since in self._idle.items() if id_ in present}

    def _look_for_gaps(self, promised: set[Promised]) -> None:
        held = {(group, door_of(rule)) for group, members in self._rules.items() for rule in members}
        for promise in promised:
            places = {(group, promise.door) for group in promise.groups}
            if places & held or promise.groups & self._excuses.groups:
                continue
            taken = max((self._excuses.removed[place] for place in places & self._excuses.removed.keys()), default=None)
            if taken is None or self._uptime - taken > self._resync + LATENESS_SECONDS:
                what = f"{promise.door} in {', '.join(sorted(promise.groups))}, promised to {promise.session}"
                self._note("closed too early", (promise.uid, promise.door), what)

    def _look_at_foreign_rules(self, rules: Rules) -> None:
        now = {rule["securityGroupRuleId"]: rule for members in rules.values() for rule in members}
        for id_, before in list(self._foreign.items()):
            if (after := now.get(id_)) == before:
                continue
            if id_ not in self._excuses.touched and before["groupId"] not in self._excuses.groups:
                done = "removed" if after is None else f"changed to {after}"
                self._note("touched a foreign rule", id_, f"{before} was {done}")
            if after is None:
                del self._foreign[id_]
            else:
                self._foreign[id_] = after
        # Whose a rule is shows when it is first seen: marks that it gets or loses later do not change that.
        self._foreign.update(
            {id_: rule for id_, rule in now.items() if id_ not in self._seen and not is_ours(rule, self._owner)}
        )
        self._seen.update(now)

    def _look_at_ends(self, objects: Objects) -> None:
        for session in objects.sessions:
            metadata, status = session["metadata"], session.get("status", {})
            if status:
                self.statuses[metadata["uid"], metadata["resourceVersion"]] = session
            end = (status.get("endedAt", ""), status.get("endedReason", ""))
            before = self._ends.get(metadata["uid"])
            if before is not None and before != end:
                name = f"{metadata['namespace']}/{metadata['name']}"
                self._note("an end was taken back", metadata["uid"], f"{name}: {before} became {end}")
            if "endedAt" in status:
                self._ends[metadata["uid"]] = end

    def _note(self, kind: str, key: object, what: str, seconds: float | None = None) -> None:
        breach = self._breaches.setdefault((kind, key), Breach(kind, what))
        breach.seconds = time.monotonic() - breach.since if seconds is None else seconds
