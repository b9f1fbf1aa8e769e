"""Sessions and resources for tests, as the API server would hand them out."""

from datetime import UTC, datetime
from typing import Any

from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import format_time
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def a_session(
    name: str = "it-1",
    *,
    namespace: str = "ci",
    created: datetime = NOON,
    metadata: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    cidrs: tuple[str, ...] = ("203.0.113.7/32",),
    resources: tuple[dict[str, str], ...] = ({"name": "staging-db"},),
    **spec: Any,
) -> AccessSession:
    """A session that is an hour long, for one address and one resource, unless said otherwise."""
    return AccessSession.model_validate(
        {
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": f"uid-{namespace}-{name}",
                "creationTimestamp": format_time(created),
                **(metadata or {}),
            },
            "spec": {"resources": list(resources), "source": {"cidrs": list(cidrs)}, **spec},
            "status": status or {},
        }
    )


def a_resource(
    name: str = "staging-db",
    *,
    namespace: str = "ci",
    groups: tuple[str, ...] = ("sg-0aaa",),
    ports: tuple[dict[str, Any], ...] = ({"port": 5432},),
    metadata: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    policy: dict[str, Any] | None = None,
    **spec: Any,
) -> ProtectedResource:
    """A resource of one group and one port with the default policy, unless said otherwise."""
    return ProtectedResource.model_validate(
        {
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": f"uid-{namespace}-{name}",
                "creationTimestamp": format_time(NOON),
                **(metadata or {}),
            },
            "spec": {
                "aws": {"region": "eu-central-1", "securityGroups": list(groups)},
                "ports": list(ports),
                "policy": policy or {},
                **spec,
            },
            "status": status or {},
        }
    )


def a_binding(
    name: str = "ci",
    *,
    namespace: str = "ci",
    created: datetime = NOON,
    metadata: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    **spec: Any,
) -> ApiKeyBinding:
    """A binding of a key that may start sessions for all of its namespace, unless said otherwise."""
    given = {"scopes": ["sessions:write"], "secretName": "ci-key", **spec}
    return ApiKeyBinding.model_validate(
        {
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": f"uid-{namespace}-{name}",
                "creationTimestamp": format_time(created),
                **(metadata or {}),
            },
            "spec": {field: value for field, value in given.items() if value is not None},
            "status": status or {},
        }
    )
