"""Two logs told by hand, for the judge: the times are seconds since 2026-01-01."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.observer.judge import Judge
from tests.observer.ledger import OTHERS

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
OWNER = "cluster/gatepass-system/gatepass"
GATEPASS, (OTHER,) = "AKIAGATEPASS", OTHERS
ADDRESS = "203.0.113.7/32"
MADE = {"namespace": "ci", "creationTimestamp": "2026-01-01T00:00:00Z"}


def at(seconds: float) -> float:
    return (BEGINNING + timedelta(seconds=seconds)).timestamp()


class Play:
    """One resource and one session of an hour, seen at 0; an operator that is able all the time."""

    def __init__(self) -> None:
        self.judge = Judge(OWNER, resync_seconds=3.0)
        self.judge.able(at(-10), able=True)
        aws = {"region": "eu-central-1", "securityGroups": ["sg-1"]}
        resource = {"metadata": {**MADE, "name": "db", "uid": "r"}, "spec": {"aws": aws, "ports": [{"port": 5432}]}}
        self.judge.saw("resources", resource, at(0))
        self.session: dict[str, Any] = {
            "metadata": {**MADE, "name": "it-1", "uid": "s"},
            "spec": {"resources": [{"name": "db"}], "source": {"cidrs": [ADDRESS]}},
        }
        self.judge.saw("sessions", self.session, at(0))

    def told(self, seconds: float) -> None:
        """The session's status says that it is open."""
        entry = {"name": "db", "namespace": "ci", "state": "Applied", "rules": [{"id": "sgr-1"}]}
        self.session = {**self.session, "status": {"phase": "Active", "resources": [entry]}}
        self.judge.saw("sessions", self.session, at(seconds))

    def stopped(self, seconds: float) -> None:
        """Its owner stops it."""
        self.session = {**self.session, "spec": {**self.session["spec"], "stop": True}}
        self.judge.saw("sessions", self.session, at(seconds))

    def call(self, seconds: float, action: str, by: str = GATEPASS, **more: Any) -> None:
        """A call to EC2 that has its effect at once."""
        time = (BEGINNING + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
        entry = {"time": time, "ms": 0.0, "service": "ec2", "action": action, "group": "sg-1", "access_key": by}
        self.judge.happened({**entry, "status": 200, "effect": "ok", **more}, at(seconds))

    def opened(self, seconds: float, id_: str = "sgr-1", source: str = ADDRESS, **more: Any) -> None:
        """Gatepass puts the rule."""
        rule = {"protocol": "tcp", "from": 5432, "to": 5432, "source": source, "description": "gatepass until=x for=y"}
        tags = {"TagSpecification": [{"Tag": [{"Key": "gatepass.dev/owner", "Value": OWNER}]}]}
        self.call(seconds, "AuthorizeSecurityGroupIngress", rules=[rule], made=[id_], params=tags, **more)

    def closed(self, seconds: float, id_: str = "sgr-1", **more: Any) -> None:
        """The rule goes."""
        self.call(seconds, "RevokeSecurityGroupIngress", removed=[id_], **more)

    def cut_off(self, seconds: float, *, over: bool = False) -> None:
        """The operator reaches its servers no more, or again."""
        self.judge.reaches(at(seconds), reaches=over)
        self.judge.able(at(seconds), able=over)

    def breaches(self, seconds: float) -> list[tuple[str, float]]:
        """The kinds and durations, when everything has been listed at that time."""
        self.judge.look(at(seconds), at(seconds))
        self.judge.look(at(seconds), at(seconds + 0.001))
        return [(breach.kind, round(breach.seconds, 1)) for breach in self.judge.breaches.values()]
