"""Named ways in which EC2 goes wrong: what `gatepass sandbox run --ec2-faults` takes, one or several with commas.

AWS's token buckets are always on; these come on top. What is drawn comes from a seed, so that a run can be had again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gatepass.sandbox.ec2.faults import Fault

_WRITES = "ec2:*SecurityGroupIngress"
_GROUP_CALLS = "ec2:*SecurityGroup[IR]*"


@dataclass(frozen=True)
class Profile:
    """Faults that belong together, and what they do, for people."""

    what: str
    faults: tuple[Fault, ...] = ()


PROFILES: Mapping[str, Profile] = {
    "none": Profile("AWS's real throttles and nothing else"),
    "throttles": Profile(
        "other tools use most of the account's tokens: 3 of 4 calls are throttled in 5 s of each 15 s",
        (
            Fault(
                kind="error",
                action="ec2:*",
                status=503,
                code="RequestLimitExceeded",
                message="Request limit exceeded.",
                chance=0.75,
                of_every=15.0,
                lasts=5.0,
            ),
        ),
    ),
    "slow": Profile(
        "each call takes 50 ms to 5 s, before its effect or after it",
        (Fault(kind="latency", action="ec2:*", seconds=0.05, up_to=5.0, when="either"),),
    ),
    "errors": Profile(
        "1 call in 5 answers 500 with no effect, 1 in 7 answers 503 and has had it",
        (
            Fault(kind="error", action="ec2:*", chance=1 / 5),
            Fault(kind="error", action="ec2:*", chance=1 / 7, when="after", status=503, code="Unavailable"),
        ),
    ),
    "resets": Profile(
        "1 connection in 5 is reset before the effect, 1 in 7 after it: the answer is lost, the rule is there",
        (
            Fault(kind="reset", action="ec2:*", chance=1 / 5),
            Fault(kind="reset", action="ec2:*", chance=1 / 7, when="after"),
        ),
    ),
    "lag": Profile(
        "each Describe shows the rules as they were 2 s to 60 s ago",
        (Fault(kind="lag", action="DescribeSecurityGroupRules", seconds=2.0, up_to=60.0),),
    ),
    "vanish": Profile(
        "the group of 1 grant in 10 is deleted just before it, twice at most",
        (Fault(kind="vanish", action="AuthorizeSecurityGroupIngress", chance=1 / 10, times=2),),
    ),
    "denied": Profile(
        "IAM denies everything of EC2 in 15 s of each 40 s",
        (Fault(kind="deny", action="ec2:*", of_every=40.0, lasts=15.0),),
    ),
    "expired": Profile(
        "the credentials have expired in 4 s of each 16 s",
        (Fault(kind="expired", of_every=16.0, lasts=4.0),),
    ),
    "quota": Profile(
        "the quota is 10 rules per group and family in 10 s of each 20 s",
        (Fault(kind="quota", rules=10, of_every=20.0, lasts=10.0),),
    ),
    "meddling": Profile(
        "another tool edits a group around half of the calls that name it: its own rules, now and then ours",
        (
            Fault(kind="meddle", action=_GROUP_CALLS, chance=1 / 4),
            Fault(kind="meddle", action=_WRITES, chance=1 / 4, when="after"),
        ),
    ),
}


def profile(names: str) -> Sequence[Fault]:
    """The faults of one profile, or of several with commas between. Raises ValueError for a name that is none."""
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in PROFILES:
            told = "".join(f"\n  {each:10} {PROFILES[each].what}" for each in PROFILES)
            raise ValueError(f"there is no profile of EC2 faults {name!r}: choose one, or several with commas:{told}")
    return [fault for name in chosen for fault in PROFILES[name].faults]
