"""Errors as the contract has them: one body for all, and a field for each thing that is wrong with the input."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from gatepass.core.gateway import RefusedError
from gatepass.core.ports import AuditError, ClusterError
from gatepass.core.types.common import format_time

log = structlog.get_logger(__name__)


class ApiError(Exception):
    """An answer that is an error: `fields` says what is wrong with which part of the input."""

    def __init__(
        self,
        status: HTTPStatus,
        message: str,
        *,
        error: str | None = None,
        fields: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.error = error or status.phrase
        self.fields = fields
        self.headers = headers


def invalid(field: str, message: str) -> ApiError:
    """One field is wrong."""
    return ApiError(HTTPStatus.BAD_REQUEST, f"{field}: {message}", fields={field: message})


def not_found(what: str) -> ApiError:
    """There is none, or it is another organisation's: the answers are alike."""
    return ApiError(HTTPStatus.NOT_FOUND, f"{what} not found")


def body(path: str, error: ApiError) -> dict[str, Any]:
    """The body of an error."""
    fields = {_text(name): _text(problem) for name, problem in (error.fields or {}).items()}
    return {
        "timestamp": format_time(datetime.now(UTC)),
        "status": error.status.value,
        "error": error.error,
        "message": _text(error.message),
        "path": _text(path),
        **({"validationErrors": fields} if fields else {}),
    }


def _text(said: str) -> str:
    """What was sent may be said again, and need not be text: half a surrogate pair is not."""
    return said.encode(errors="backslashreplace").decode()


def answer(path: str, error: ApiError) -> JSONResponse:
    """The whole answer."""
    return JSONResponse(body(path, error), error.status.value, headers=dict(error.headers or {}))


def register(app: FastAPI) -> None:
    """Have the application answer every error in this way."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return answer(request.url.path, error)

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> JSONResponse:
        fields = {_field(problem): _problem(problem) for problem in _own(error.errors())}
        message = "; ".join(f"{field}: {problem}" for field, problem in fields.items())
        return answer(request.url.path, ApiError(HTTPStatus.BAD_REQUEST, message, fields=fields))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        status = HTTPStatus(error.status_code)
        headers = dict(error.headers or {})
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers = {"Allow": ", ".join(_allowed(app, request))}
        # Of what is no JSON at all, however it fails, FastAPI says no more than this.
        fields = {"body": str(error.detail)} if status is HTTPStatus.BAD_REQUEST else None
        return answer(request.url.path, ApiError(status, str(error.detail), fields=fields, headers=headers))

    @app.exception_handler(Exception)
    async def defect(request: Request, _: Exception) -> JSONResponse:
        told = ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "Gatepass failed: its log says how")
        return answer(request.url.path, told)

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        return answer(request.url.path, _told(error))

    @app.exception_handler(AuditError)
    async def untold(request: Request, error: AuditError) -> JSONResponse:
        return answer(request.url.path, ApiError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)))

    @app.exception_handler(ClusterError)
    async def unreachable(request: Request, error: ClusterError) -> JSONResponse:
        log.warning("the API server cannot be reached", path=request.url.path, error=str(error))
        return answer(request.url.path, _unavailable())


def _unavailable(why: str = "does not answer") -> ApiError:
    told = f"the Kubernetes API {why}: try again"
    return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, told, headers={"Retry-After": "2"})


def _told(error: RefusedError) -> ApiError:
    """What the API server says, in the words of HTTP: its admission refuses input with 422, which is a 400 here."""
    told = error.message.rpartition("denied request: ")[2]
    match error.status:
        case 422 if told.startswith("failed to configure"):  # it has just started, and knows our kinds in a moment
            return _unavailable()
        case 400 | 422:
            return ApiError(HTTPStatus.BAD_REQUEST, told, fields=_fields(error.causes, told))
        case 403 | 404 | 409 | 413 | 429:
            return ApiError(HTTPStatus(error.status), told)
        case _:
            log.warning("the API server failed a call", status=error.status, error=error.message)
            return _unavailable("failed the call")


def _allowed(app: FastAPI, request: Request) -> list[str]:
    """Each method has a route of its own, and the framework tells those of the first."""
    scopes = {method: {**request.scope, "method": method} for method in ("DELETE", "GET", "PATCH", "POST", "PUT")}
    found = [name for name, scope in scopes.items() if any(each.matches(scope)[0] is Match.FULL for each in app.routes)]
    return [*found, "HEAD"] if "GET" in found else found


# Where the fields of custom resources come from in the bodies of the contract; the longer one first.
_SPOKEN: Final = {
    "metadata.name": "name",
    "spec.allowedCIDRs": "allowedCIDRs",
    "spec.aws.credentials": "credentialId",
    "spec.aws.region": "config.region",
    "spec.aws.securityGroups": "config.securityGroupIds",
    "spec.duration": "durationHours",
    "spec.expiresAt": "expiresAt",
    "spec.heartbeat": "heartbeatSeconds",
    "spec.maxDuration": "maxDurationHours",
    "spec.ports": "config.ports",
    "spec.reason": "reason",
    "spec.resources": "resourceIds",
    "spec.scopes": "scopes",
    "spec.source": "ipv4Address",
}
_OF_IPV6: Final = re.compile(r"[0-9a-f]*:[0-9a-f:]+/128")
_NAMED: Final = re.compile(r"\b(?:spec|metadata)\.[A-Za-z.]+")


def _fields(causes: Mapping[str, str], told: str) -> dict[str, str]:
    """What the API server says of fields; an admission policy names one in its message only."""
    named = _NAMED.search(told)
    found = causes or ({named[0]: told} if named is not None else {})
    return {_spoken(field, problem): problem for field, problem in found.items()}


def _spoken(field: str, problem: str) -> str:
    if field.startswith("spec.source") and _OF_IPV6.search(problem):
        return "ipv6Address"
    return next((ours for theirs, ours in _SPOKEN.items() if field.startswith(theirs)), field)


_WORDS: Final = {
    "model_attributes_type": "must be an object",
    "too_long": "must be no longer than {max_length}",
    "too_short": "must be no shorter than {min_length}",
    "tuple_type": "must be a list",
}
"""Of what the framework calls by names of Python."""


def _problem(problem: Mapping[str, Any]) -> str:
    ours = _WORDS.get(problem["type"])
    said: str = problem["msg"]
    return said.removeprefix("Value error, ") if ours is None else ours.format(**problem.get("ctx", {}))


def _own(problems: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Without the lists that are called too short because of what is wrong with their items."""
    around = {tuple(problem["loc"][:-1]) for problem in problems}
    return [each for each in problems if each["type"] != "too_short" or tuple(each["loc"]) not in around]


def _field(problem: Mapping[str, Any]) -> str:
    """Where it is, without saying that it was in the body."""
    place, *parts = problem["loc"]
    if problem["type"] == "json_invalid":
        parts = []  # it tells how many characters were read
    return ".".join(map(str, parts)) or str(place)
