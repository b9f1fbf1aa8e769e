"""What the API server is asked about other people."""

from collections.abc import Mapping
from typing import Any, Final

from gatepass.core.types.common import GROUP
from gatepass.core.types.session import Requester

ACCESS_PATH: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
TOKEN_PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 no token


def access_review(who: Requester, verb: str, plural: str, namespace: str, name: str = "") -> dict[str, Any]:
    """Has somebody a verb on the custom resources of a kind, or on one of them?"""
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": who.username,
            "uid": who.uid or "",
            "groups": list(who.groups),
            "resourceAttributes": {
                "group": GROUP,
                "resource": plural,
                "namespace": namespace,
                "name": name,
                "verb": verb,
            },
        },
    }


def allowed(review: Mapping[str, Any]) -> bool:
    """The answer to an `access_review`."""
    return bool(review.get("status", {}).get("allowed"))


def token_review(token: str) -> dict[str, Any]:
    """Whose bearer token is it?"""
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}


def owner(review: Mapping[str, Any]) -> Requester | None:
    """The answer to a `token_review`; None when the API server does not know the token."""
    status = review.get("status", {})
    user = status.get("user", {})
    if not status.get("authenticated") or not user.get("username"):
        return None
    return Requester(username=user["username"], uid=user.get("uid"), groups=tuple(user.get("groups") or ()))
