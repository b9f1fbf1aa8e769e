"""The laws that are looked at once in a while, when nothing has stood in the way for long."""

from typing import Any, Final

from tests.simulation.laws import ENDED, GRACE, HEALED, LAG, Laws
from tests.simulation.ledger import Holder, Json, Name, Place, Right, cidrs_of, entry_of, name_of, pod_of

_OWN_FAULT: Final = frozenset(
    ["DurationTooLong", "ReasonRequired", "ResourceDeleting", "PolicyWithdrawn", "TooManyRules", "NeverFits"]
)


class AllLaws(Laws):
    """With those of each change."""

    def inspect(self, quiet_for: float) -> None:
        """Everything is as it should be, when it has been calm for so long."""
        now = self._now()
        if self.calm.since() > now - quiet_for:
            return
        for name, session in self.truth.sessions.items():
            self._inspect(name, session, now, quiet_for)

    def _inspect(self, name: Name, session: Json, now: float, quiet_for: float) -> None:
        text, uid = "/".join(name), session["metadata"]["uid"]
        status = session.get("status", {})
        stored = {holder: right for holder, right in self.truth.rights.items() if holder.session == uid}
        rights = {holder: right for holder, right in stored.items() if right.until > now - quiet_for}
        since = max((self.truth.lost_at.get(holder, 0.0) for holder in rights), default=0.0)
        if not rights and status.get("phase") not in ENDED and "deletionTimestamp" not in session["metadata"]:
            over = self.truth.over_at(session) <= now - quiet_for or self.truth.owner_over(session)
            ended = "endedAt" in status or session["spec"].get("stop") or over
            if ended and self._over_since.setdefault(uid, now) <= now - quiet_for and quiet_for > HEALED:
                self.breach("does not come to its end", f"{text} is {status.get('phase')}")
        if self.missed_from(session) <= now - quiet_for and "endedAt" not in status:
            self.breach("outlives its runner", text)
        for holder, right in rights.items():
            made = max(self.truth.created_at(session), self.truth.made_at(holder))
            if not self._may_count_on(holder) or now - max(since, made) < LAG:
                continue
            self._inspect_right(text, session, holder, right)

    def _inspect_right(self, text: str, session: Json, holder: Holder, right: Any) -> None:
        resource = next(r for r in self.truth.resources.values() if r["metadata"]["uid"] == holder.resource)
        entry = entry_of(session, name_of(resource)) or {}
        listed = resource["spec"]["aws"]["securityGroups"]
        if (pod := pod_of(session)) is not None:
            if pod not in self._pods.at and entry.get("state") in (None, "Pending"):
                return  # nobody can know yet
            if set(listed) <= self.groups:
                self._inspect_pod(text, session, right)
        match entry.get("state"):
            case "Applied":
                missing = [
                    door
                    for door in right.doors
                    if not self._open_elsewhere(holder, door) and not self._lately_removed(right.groups, door)
                ]
                if missing and set(listed) <= self.groups:
                    self.breach("says Applied and is not open", f"{text}: {missing[0]} in {sorted(right.groups)}")
            case "Waiting":
                ceiling = "maxConcurrentSessions" in resource["spec"].get("policy", {})
                if not ceiling and not any(self.full(group) for group in listed):
                    self.breach("waits although there is room", f"{text}: {entry.get('message')}")
            case "Failed":
                if set(listed) <= self.groups and entry.get("reason") not in _OWN_FAULT:
                    self.breach("failed without a reason", f"{text}: {entry.get('reason')} {entry.get('message')}")
            case state:
                if set(listed) <= self.groups:
                    self.breach("never opened", f"{text}: {state} {entry.get('reason')} {entry.get('message')}")

    def _inspect_pod(self, text: str, session: Json, right: Right) -> None:
        """It is let in from where its pod is, or says that it is not; and where the pod was, nothing is left."""
        here = {f"{ip}/32" for ip in self._pods.at.get(pod_of(session) or "", ())}
        told = set(cidrs_of(session))
        conditions = {each["type"] for each in session["status"].get("conditions", ())}
        if told and told != here and "SourceChanged" not in conditions:
            self.breach("does not follow its pod", f"{text}: {sorted(told)}, and the pod is at {sorted(here)}")
        for place in (Place(group, door) for group in right.groups for door in right.beside - right.doors):
            ours = any(self._rules[id_].ours and not self._rules[id_].spoilt for id_ in self._at.get(place, ()))
            if ours and not self.truth.shared(place, session["metadata"]["uid"], self._now() - GRACE):
                self.breach("left open behind a pod", f"{text}: {place}")
