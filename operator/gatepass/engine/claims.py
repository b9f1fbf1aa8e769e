"""Claimed sessions: the token is handed out here, and a claim is read back from the status."""

import secrets
from collections.abc import Sequence

from gatepass.core.errors import ClaimAwaitedError, SourceError
from gatepass.core.keys import CLAIM_ENTROPY_BYTES, key_hash, make_claim_token
from gatepass.core.lifecycle import deadline
from gatepass.core.ports import Cluster, ClusterError, GoneError
from gatepass.core.types.session import AccessSession, ClaimStatus, SourceAddress

_LONGEST_NAME = 253
_SUFFIX = "-claim"


def secret_name(session: str) -> str:
    """The Secret with the token: known beforehand, so that a pod can name it before it is there."""
    return session[: _LONGEST_NAME - len(_SUFFIX)].rstrip("-.") + _SUFFIX


class ClaimFinder:
    """Finds what the REST API has recorded. Until then it makes the token, once for each session.

    The token is in the Secret before its hash is in the status; one whose hash never got there is replaced.
    """

    def __init__(self, cluster: Cluster, url: str | None) -> None:
        self._cluster = cluster
        self._url = url
        self._offered: dict[str, ClaimStatus] = {}

    async def find(self, session: AccessSession) -> Sequence[SourceAddress]:
        """The addresses that have claimed the session; raises SourceError."""
        if session.status.started_at is not None:
            self._offered.pop(session.uid, None)
            return session.status.source.addresses if session.status.source is not None else ()
        if session.status.claim is not None:
            self._offered.pop(session.uid, None)
            raise ClaimAwaitedError(session.status.claim)
        raise ClaimAwaitedError(await self._offer(session))

    async def _offer(self, session: AccessSession) -> ClaimStatus:
        if self._url is None:
            raise SourceError(
                "ClaimNotAvailable",
                "spec.source.claim: this installation has no REST API that could be called "
                "(gatepass serve with GATEPASS_PUBLIC_URL; in the chart api.enabled and publicUrl)",
            )
        known = self._offered.get(session.uid)
        if known is not None:
            return known
        token = make_claim_token(secrets.token_bytes(CLAIM_ENTROPY_BYTES))
        name = secret_name(session.metadata.name)
        try:
            await self._cluster.write_claim_secret(session, name, token)
        except GoneError:
            raise SourceError("SessionGone", "the session is not there any more") from None
        except ClusterError as error:
            raise SourceError("SecretNotWritten", f"Secret {name}: {error}", retry=True) from error
        offer = self._offered[session.uid] = ClaimStatus(
            url=f"{self._url}/api/v1/sessions/{session.uid}/claim",
            secret_name=name,
            expires_at=deadline(session)[0],
            token_hash=key_hash(token),
        )
        return offer
