"""Who makes a request, and what that lets it do."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from gatepass.core.types.binding import ApiKeyBinding, Scope
from gatepass.core.types.common import Key
from gatepass.core.types.session import Requester
from gatepass.rest.errors import ApiError


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """Who shows an API key: the binding decides what it may do, in its own namespace."""

    binding: ApiKeyBinding
    credential: str
    """The key's id, or whose token it was; for the trail."""

    @property
    def namespace(self) -> str:
        """The organisation."""
        return self.binding.metadata.namespace

    @property
    def requester(self) -> Requester:
        """The name under which it acts."""
        return Requester(username=self.binding.requester, uid=self.binding.uid)

    @property
    def scopes(self) -> Sequence[Scope]:
        """What the key may do."""
        return self.binding.spec.scopes

    def require(self, scope: str) -> None:
        """Raise the contract's 403 when the key lacks the scope."""
        if scope not in self.binding.spec.scopes:
            raise self.lacks(scope)

    def lacks(self, scope: str) -> ApiError:
        """The contract's 403."""
        return ApiError(
            HTTPStatus.FORBIDDEN,
            f"API key does not have required scope: {scope}",
            error="Insufficient permissions",
        )

    def opens(self, resource: Key) -> bool:
        """May the key open the resource?"""
        return self.binding.opens(resource)


@dataclass(frozen=True, slots=True)
class Person:
    """Who shows a bearer token of Kubernetes: its own rights decide, in the namespace that it names."""

    requester: Requester
    token: str = field(repr=False)
    namespace: str
    credential: str = "token of Kubernetes"


Principal = KeyHolder | Person
