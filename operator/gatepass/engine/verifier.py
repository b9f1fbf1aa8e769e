"""Verifies resources: who the credentials are, which firewall objects they find, and how much goes in."""

import asyncio
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from gatepass.core.errors import SECRET_DELETED, Failure, ProviderError, UnknownOutcomeError
from gatepass.core.ports import (
    Access,
    Clock,
    Cluster,
    ClusterError,
    ConflictError,
    Credentials,
    GoneError,
    Provider,
    SecretSeen,
    TargetFacts,
)
from gatepass.core.rules import Target
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.engine.queue import CLOSING_RETRY, LAST_RETRY, Queue
from gatepass.engine.state import Standing, State
from gatepass.engine.turns import Turns

log = structlog.get_logger(__name__)

OPERATOR_IDENTITY: Final = "operator"
"""The word for the operator's own identity in the list of what a namespace may use."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """Which namespaces may use the operator's own identity, and which roles: globs of namespaces to globs of roles.

    Without it any tenant could aim the operator at any firewall that the operator can reach.
    """

    namespaces: Mapping[str, Sequence[str]]

    def refusal(self, namespace: str, credentials: Credentials) -> str | None:
        """Why a namespace may not use these credentials; a Secret of its own it always may."""
        if credentials.secret is not None:
            return None
        wanted = credentials.role or OPERATOR_IDENTITY
        allowed = [
            glob for ns, globs in self.namespaces.items() if fnmatch.fnmatchcase(namespace, ns) for glob in globs
        ]
        if any(fnmatch.fnmatchcase(wanted, glob) for glob in allowed):
            return None
        what = f"the role {credentials.role}" if credentials.role else "the operator's own identity"
        return (
            f"namespace {namespace} may not use {what}: use credentials.secretRef, "
            "or have the installation list it (credentialsNamespaces)"
        )


def access_of(resource: ProtectedResource, owner: str) -> Access:
    """The way in that the resource names; the external id is ours to make, never the user's."""
    firewall = resource.spec.aws
    namespace = resource.metadata.namespace
    given = firewall.credentials
    if given is None:
        credentials = Credentials()
    elif given.secret_ref is not None:
        credentials = Credentials(secret=(namespace, given.secret_ref.name))
    else:
        credentials = Credentials(role=given.role_arn, external_id=external_id(resource, owner))
    return Access("aws", firewall.region, credentials)


def external_id(resource: ProtectedResource, owner: str) -> str | None:
    """What a role's trust policy should ask for: `<install id>/<namespace>`; None without a role."""
    given = resource.spec.aws.credentials
    return f"{owner}/{resource.metadata.namespace}" if given and given.role_arn else None


class Verifier:
    """Asks the cloud who we are and what is there; keeps the answer until it is told to ask again."""

    def __init__(
        self,
        state: State,
        providers: Mapping[str, Provider],
        cluster: Cluster,
        clock: Clock,
        confinement: Confinement,
        empty: Callable[[Target, ProtectedResource, Standing], bool],
        verified: Callable[[Key, Standing | None], None],
    ) -> None:
        self._state = state
        self._providers = providers
        self._cluster = cluster
        self._clock = clock
        self._confinement = confinement
        self._empty = empty
        self._verified = verified
        self.queue: Queue[Key] = Queue("verify", self.run, workers=16)
        self._turns: Turns[Access | str, Key] = Turns(self.queue)
        """By the credentials that AWS refuses, or the namespace whose Secrets the API server does."""

    async def run(self, key: Key) -> None:
        """Verify one resource; a refusal is kept, reported, and asked again with backoff."""
        resource = self._state.store.resources.get(key)
        if resource is None:
            self._turns.settled(key)
            return
        before = self._state.standings.get(key)
        try:
            if not resource.held and not resource.deleting:
                await self._cluster.hold(resource)
                return
            standing = await self.verify(resource)
        except GoneError:
            return
        except ConflictError:
            self.queue.retry(key, CLOSING_RETRY)
            return
        except ClusterError as error:
            log.warning("cannot reach the API server", resource=str(key), error=str(error))
            # Something may have to close there, and the Secret is read before that.
            self._turns.refused(key.namespace, key)
            if before is None:
                # Somebody may be waiting to hear of it before anything is revoked.
                refusal = ProviderError(Failure.RETRY, "ApiServer", "the API server does not answer")
                self._keep(resource, self._refused(resource, access_of(resource, self._state.owner), refusal, None))
                self._verified(key, before)
            return
        self._turns.let_in(key.namespace, key)
        self._ask_again(key, standing)
        self._verified(key, before)

    def _ask_again(self, key: Key, standing: Standing) -> None:
        """When something is wrong: soon where there may be something to close, which has to be found first."""
        found = [*standing.targets.values(), *standing.draining.values()]
        wrong = [facts for facts in found if isinstance(facts, ProviderError)]
        hidden = any(facts.failure is not Failure.NOT_FOUND for facts in wrong)
        silent = standing.refusal is not None and standing.refusal.failure is Failure.RETRY
        if hidden and not silent:
            self._turns.refused(standing.access, key)
            return
        blind = len(wrong) == len(found)
        if not hidden and not (blind and standing.refusal):
            self._turns.let_in(standing.access, key)
        if standing.refusal is None and not wrong:
            self.queue.succeeded(key)
        else:
            self.queue.retry(key, CLOSING_RETRY if silent and blind else LAST_RETRY)

    async def verify(self, resource: ProtectedResource) -> Standing:
        """Ask anew, and keep the answer. What cannot be asked keeps the standing it had, with the refusal."""
        access = access_of(resource, self._state.owner)
        before = self._state.standings.get(resource.key)
        secret = await self._secret(resource, access)
        barred = self._barred(resource, access)
        account: str | None = None
        try:
            if barred is not None and resource.status.account is None:
                raise barred
            account = await self._identify(resource, access)
            ids = self._ids(resource) if barred is None else self._known_ids(resource)
            facts = await self._providers[access.provider].inspect(access, ids)
        except (ProviderError, UnknownOutcomeError) as error:
            refusal = error if isinstance(error, ProviderError) else _lost(error)
            standing = self._refused(resource, access, refusal, before)
            standing = replace(standing, rejected=account is None and refusal.failure is Failure.FORBIDDEN)
        else:
            barred = barred or (None if resource.deleting else _leaving(access, secret))
            standing = self._standing(resource, access, account, barred, facts)
        standing = replace(standing, secret=secret)
        if self._keep(resource, standing):
            now = asyncio.get_running_loop().time()
            for target in filter(standing.lost, standing.everywhere()):
                if not self._state.target(target).remembers(now):  # else it may be an answer that lags
                    self._state.forget_target(target)
        return standing

    def _keep(self, resource: ProtectedResource, standing: Standing) -> bool:
        """Unless the resource has gone meanwhile: nobody would ever forget what is kept of it then."""
        current = self._state.store.resources.get(resource.key)
        there = current is not None and current.uid == resource.uid
        if there:
            self._state.set_standing(resource.key, standing)
        return there

    async def _secret(self, resource: ProtectedResource, access: Access) -> SecretSeen | None:
        """What the Secret is before it is read; held, unless the resource is about to let it go."""
        name = access.credentials.secret
        if name is None:
            return None
        return await (self._cluster.secret if resource.deleting else self._cluster.hold_secret)(*name)

    def _barred(self, resource: ProtectedResource, access: Access) -> ProviderError | None:
        """Why nothing new may be opened; what was opened while it was allowed is still closed with the credentials."""
        refusal = self._confinement.refusal(resource.metadata.namespace, access.credentials)
        return None if refusal is None else ProviderError(Failure.FORBIDDEN, "CredentialsNotAllowed", refusal)

    async def _identify(self, resource: ProtectedResource, access: Access) -> str:
        account = await self._providers[access.provider].identify(access)
        recorded = resource.status.account
        if recorded is not None and recorded != account and resource.status.targets:
            raise ProviderError(
                Failure.FORBIDDEN,
                "AccountChanged",
                f"the credentials belong to account {account} now, and the rules are in account {recorded}: "
                "restore the credentials, or delete this ProtectedResource and create another",
            )
        return account

    def _ids(self, resource: ProtectedResource) -> list[str]:
        """The firewall objects on the list, and those that were on it before and may still hold rules of ours."""
        return list(dict.fromkeys([*resource.spec.aws.security_groups, *self._known_ids(resource)]))

    def _known_ids(self, resource: ProtectedResource) -> list[str]:
        before = self._state.standings.get(resource.key)
        recorded = [target.id for target in resource.status.targets]
        # A status may not have come to name what was on the list for a moment.
        if before is None or not before.answered:
            used = self._state.recorded_for(resource)
        else:
            left = (target for target in before.draining if not self._empty(target, resource, before))
            used = [target.id for target in (*before.targets, *left)]
        return list(dict.fromkeys([*recorded, *used]))

    def _standing(
        self,
        resource: ProtectedResource,
        access: Access,
        account: str,
        refusal: ProviderError | None,
        facts: Mapping[str, TargetFacts | ProviderError],
    ) -> Standing:
        listed = resource.spec.aws.security_groups
        given = resource.spec.aws.rules_per_security_group
        targets: dict[Target, TargetFacts | ProviderError] = {}
        draining: dict[Target, TargetFacts | ProviderError] = {}
        for id_, found in facts.items():
            target = Target(access.provider, account, access.region, id_)
            if isinstance(found, TargetFacts) and given is not None:
                found = TargetFacts(found.name, found.vpc, given)
            (targets if id_ in listed else draining)[target] = found
        return Standing(
            access=access,
            account=account,
            refusal=refusal,
            targets={target: targets[target] for target in sorted(targets, key=lambda t: listed.index(t.id))},
            draining=draining,
            verified_at=self._clock.now().replace(microsecond=0),
        )

    def _refused(
        self, resource: ProtectedResource, access: Access, refusal: ProviderError, before: Standing | None
    ) -> Standing:
        if before is None or before.refusal != refusal:
            log.warning("cannot verify", resource=str(resource.key), reason=refusal.reason, error=refusal.message)
        account = resource.status.account or (before.account if before else None)
        if account is None:
            return Standing(
                access,
                None,
                refusal,
                {},
                {},
                verified_at=self._clock.now().replace(microsecond=0),
            )
        passing = refusal.failure is Failure.RETRY and before is not None and before.account == account
        known = {**before.targets, **before.draining} if before and passing else {}
        by_id: dict[str, TargetFacts | ProviderError] = {target.id: facts for target, facts in known.items()}
        facts = {id_: by_id.get(id_, refusal) for id_ in self._ids(resource)}
        return self._standing(resource, access, account, refusal, facts)


def _leaving(access: Access, secret: SecretSeen | None) -> ProviderError | None:
    """Why a Secret that is being deleted opens nothing new, while it still closes."""
    if access.credentials.secret is None or secret is None or not secret.leaving:
        return None
    told = f"Secret {'/'.join(access.credentials.secret)} is being deleted: nothing new is opened"
    return ProviderError(Failure.FORBIDDEN, SECRET_DELETED, told)


def _lost(error: Exception) -> ProviderError:
    return ProviderError(Failure.RETRY, "NoAnswer", str(error) or "the answer was lost")
