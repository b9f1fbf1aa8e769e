"""The narrow seams to the outside world. Tests and simulations put other adapters behind them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gatepass.core.audit import AuditEntry, RecordedPage
from gatepass.core.binding_status import KeySecret
from gatepass.core.errors import ProviderError
from gatepass.core.plan import Write
from gatepass.core.rules import ObservedRule, Rule, Stamp, Target
from gatepass.core.types.binding import ApiKeyBinding, ApiKeyBindingStatus
from gatepass.core.types.common import Custom, Key
from gatepass.core.types.resource import ProtectedResource, ProtectedResourceStatus
from gatepass.core.types.session import AccessSession, AccessSessionStatus, Requester, SourceAddress


class Clock(Protocol):
    """Time, as the API server tells it. Whoever rests on `now` sets `corrected`, which is called when it was wrong."""

    corrected: Callable[[], None]

    def now(self) -> datetime:
        """The present, in UTC, corrected by the API server's clock."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go backwards."""
        ...


Fence = Callable[[float], bool]
"""May a write be sent now that takes effect within so many seconds, if ever? Asked from any thread."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to sign in: the operator's own identity, a Secret, or a role with an external id of ours."""

    secret: tuple[str, str] | None = None  # namespace and name
    role: str | None = None
    external_id: str | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """A way into one Region of a cloud."""

    provider: str
    region: str
    credentials: Credentials


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """What a firewall object is called, where it is, and how many rules it takes per IP family."""

    name: str
    vpc: str | None
    limit: int


@dataclass(frozen=True, slots=True)
class NewRule:
    """A rule to be written, with its description."""

    rule: Rule
    description: str


@dataclass(frozen=True, slots=True)
class Granted:
    """EC2 has it, under this id."""

    id: str


class Duplicate:
    """The firewall has a rule of that identity already."""


class Full:
    """The firewall takes no more rules of that family."""


class Unknown:
    """The answer was lost, so the rule may be there or not."""


GrantOutcome = Granted | Duplicate | Full | Unknown | ProviderError


class Revoked:
    """It is gone, by this call."""


class Gone:
    """There is no such rule: it has gone before, or it is so new that its firewall does not know it everywhere yet."""


RevokeOutcome = Revoked | Gone | Unknown | ProviderError
RelabelOutcome = Gone | ProviderError | None
"""None when it is done."""


Still = Callable[[Rule], bool]
"""Is a rule still wanted?"""


class Provider(Protocol):
    """A kind of firewall. Every method raises ProviderError or UnknownOutcomeError when the whole call fails.

    Writes answer for each member: a batch is retried without the members that are wrong, so that one bad rule
    holds up none of the others. A member that is missing in an answer was not asked for: there was no call for it, or
    nobody wants it any more.
    """

    async def identify(self, access: Access) -> str:
        """The account behind the credentials, asked anew."""
        ...

    async def inspect(self, access: Access, ids: Sequence[str]) -> Mapping[str, TargetFacts | ProviderError]:
        """The facts of the firewall objects of these ids, or why each cannot be used."""
        ...

    async def observe(self, access: Access, target: Target) -> Sequence[ObservedRule]:
        """Every inbound rule, whoever made it."""
        ...

    async def find(self, access: Access, owner: str | None) -> Sequence[tuple[Target, ObservedRule]]:
        """Every inbound rule of the Region with the owner's tag, in whatever firewall object; for None, of any owner.

        The weight of a rule is not looked up.
        """
        ...

    async def grant(
        self, access: Access, target: Target, rules: Sequence[NewRule], stamp: Stamp, still: Still
    ) -> Mapping[Rule, GrantOutcome]:
        """Put the rules, with the tags of the stamp; leaves out those that are not `still` wanted before each call."""
        ...

    async def revoke(
        self, access: Access, target: Target, ids: Sequence[str], *, doubtful: bool = False
    ) -> Mapping[str, RevokeOutcome]:
        """Remove the rules of these ids. Where calls are scarce, `doubtful` ones leave them to others.

        Those may be gone already, and only reads that lag show them.
        """
        ...

    async def relabel(
        self, access: Access, target: Target, descriptions: Mapping[str, str]
    ) -> Mapping[str, RelabelOutcome]:
        """Set the descriptions of rules by id."""
        ...

    async def tag(self, access: Access, target: Target, ids: Sequence[str], owner: str) -> Collection[str]:
        """Put the owner's tag on rules by id; answers which have it now."""
        ...

    def delay(self, target: Target) -> float:
        """Seconds that a write to the target had better wait, so that it takes more along; 0 while calls are plenty."""
        ...

    def closing_delay(self, target: Target) -> float:
        """The same for a write that closes something, which is in a hurry."""
        ...

    def reserve(self, target: Target, kinds: Collection[Write], *, doubtful: bool = False) -> Mapping[Write, float]:
        """Seconds until one call of each kind about the target may go out, which are kept for it; 0 for now.

        Who comes back then finds them kept for some seconds, and those of other kinds given back. None is kept for
        revokes that leave it to others: `doubtful` says that they would, as `revoke` does.
        """
        ...

    def patience(self, target: Target) -> float:
        """Seconds in which nothing more to take along has come, after which such a wait may end early."""
        ...


class Switches(Protocol):
    """Dead man's switches: each closes one rule by itself, unless it has been moved or taken away before.

    Kept by the cloud, so that a rule closes although cluster and operator are gone. Every method raises
    ProviderError or UnknownOutcomeError.
    """

    def covers(self, target: Target) -> bool:
        """Has the installation named a role that closes rules in the target's account?"""
        ...

    async def armed(self, access: Access) -> Collection[str]:
        """The ids of all rules of the Region that have a switch."""
        ...

    async def arm(self, access: Access, target: Target, id_: str, until: datetime, *, again: bool) -> bool:
        """Close the rule some minutes after `until`; `again` when it has a switch, which is moved.

        Answers whether that is done: one that is there against expectation, for whatever time, is left as it is.
        """
        ...

    async def disarm(self, access: Access, target: Target, id_: str) -> None:
        """Take the switch away; one that is gone already counts as taken."""
        ...


class SourceFinder(Protocol):
    """One way of finding where a session's traffic leaves from.

    Finders keep what they know for as long as that is good, and are asked again when `Engine.source_changed` is called
    for the session, after a SourceError with retry, and at each resync.
    """

    async def find(self, session: AccessSession) -> Sequence[SourceAddress]:
        """All addresses that the traffic may leave from, each with its evidence; raises SourceError.

        Addresses without some family say that the traffic has none of it; PartlyFoundError says that nobody can tell.
        An `ip` is in canonical form. An address that is found again may be told with another `observed_at`.
        """
        ...


class Secrets(Protocol):
    """Reads the Secrets that hold credentials."""

    async def read(self, namespace: str, name: str) -> Mapping[str, str]:
        """The decoded data; raises ProviderError (FORBIDDEN) when there is no such Secret."""
        ...


@dataclass(frozen=True, slots=True)
class SecretSeen:
    """What a Secret is, without what is in it: `version` is another one after each change.

    `leaving` says that it is being deleted, and there as long as our finalizer holds it.
    """

    version: str
    leaving: bool


class GoneError(Exception):
    """The object is not there any more, or another one of its name is."""


class ClusterError(Exception):
    """The API server refused or failed a call; it may work in a moment."""


class ConflictError(ClusterError):
    """Somebody has changed the object in between; the newer version is on its way."""


class Cluster(Protocol):
    """Everything that is written to the API server. Every method raises GoneError or ClusterError."""

    async def hold(self, held: Custom) -> None:
        """Put our finalizer on the object, before the first side effect."""
        ...

    async def release(self, held: Custom) -> None:
        """Take our finalizer off, after the last one."""
        ...

    async def write_session_status(self, session: AccessSession, status: AccessSessionStatus) -> AccessSession:
        """Replace the status; answers with the object as it is now."""
        ...

    async def write_resource_status(
        self, resource: ProtectedResource, status: ProtectedResourceStatus
    ) -> ProtectedResource:
        """Replace the status; answers with the object as it is now."""
        ...

    async def delete_session(self, session: AccessSession) -> None:
        """Delete a session whose record has been kept long enough."""
        ...

    async def may_use(self, requester: Requester, resource: Key) -> bool:
        """Has the requester the verb `use` on the ProtectedResource?"""
        ...

    async def requesters_verified_since(self, *, anew: bool = False) -> datetime | None:
        """Since when admission policies make the requested-by annotation true; None when they are not in force.

        May be as they were a while ago, unless `anew`.
        """
        ...

    async def write_binding_status(self, binding: ApiKeyBinding, status: ApiKeyBindingStatus) -> ApiKeyBinding:
        """Replace the status; answers with the object as it is now."""
        ...

    async def key_secret(self, binding: ApiKeyBinding) -> KeySecret | None:
        """The Secret that the binding names; None when there is none."""
        ...

    async def write_key_secret(self, binding: ApiKeyBinding, text: str) -> None:
        """Put a key into the binding's Secret; raises ConflictError when it has changed hands in between."""
        ...

    async def write_claim_secret(self, session: AccessSession, name: str, token: str) -> None:
        """Put a token into a Secret that goes with the session; raises ConflictError when it is somebody else's."""
        ...

    async def secret(self, namespace: str, name: str) -> SecretSeen | None:
        """A Secret with credentials, not from a cache; None when there is none."""
        ...

    async def hold_secret(self, namespace: str, name: str) -> SecretSeen | None:
        """Keep the Secret while it is needed to clean up, unless it is being deleted; answers what it is then."""
        ...

    async def release_secret(self, namespace: str, name: str) -> None:
        """Let the Secret go."""
        ...

    async def namespace_goes(self, name: str) -> bool:
        """Is the namespace being deleted, or gone? Not from a cache."""
        ...

    async def put_lease(self, session: AccessSession) -> None:
        """Make the Lease that the session's runner renews, unless it is there."""
        ...

    async def renewed(self, session: AccessSession) -> str | None:
        """When the runner renewed the session's Lease last, in its own words; None for never, or for no Lease."""
        ...

    def announce(self, about: Custom, reason: str, message: str, *, warning: bool = False) -> None:
        """Write an Event soon, or drop it when there are too many."""
        ...


class AuditError(Exception):
    """The audit trail cannot be written; it may work in a moment."""


class AuditReader(Protocol):
    """Reads the audit trail for those whose namespace it is about."""

    async def page(
        self,
        namespace: str,
        *,
        number: int,
        size: int,
        event: str | None,
        actor: str | None,
        since: datetime | None,
        until: datetime | None,
    ) -> RecordedPage:
        """Entries of one namespace, the newest first; raises AuditError when the database does not serve."""
        ...


class Audit(Protocol):
    """The audit trail. No decision is read back from it."""

    def record(self, *entries: AuditEntry) -> None:
        """Write the entries soon; returns at once, and never fails: what is lost is told in the trail."""
        ...

    async def written(self, *entries: AuditEntry) -> None:
        """Write the entries and return when they are durable; raises AuditError when they are not, within seconds."""
        ...
