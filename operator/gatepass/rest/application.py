"""The application: routes, errors and bounds put together."""

import functools
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from starlette.types import ASGIApp

from gatepass.rest import audit_logs, claims, errors, keys, resources, service, sessions
from gatepass.rest.context import Context
from gatepass.rest.limits import AnyBodyIsJson, BodyLimit, HeadIsGet, RateLimit
from gatepass.rest.models import Error
from gatepass.rest.request_id import HEADER, RequestIds

PREFIX = "/api/v1"


def application(context: Context) -> ASGIApp:
    """The ASGI application."""
    app = FastAPI(
        title="Gatepass",
        version="v1",
        summary="Opens cloud firewalls for CI jobs, for exactly as long as they need it.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=f"{PREFIX}/docs",
        redoc_url=None,
        redirect_slashes=False,
        responses={"4XX": {"model": Error}, "503": {"model": Error}},
    )
    app.state.context = context
    errors.register(app)
    for router in (sessions.router, claims.router, resources.router, keys.router, audit_logs.router, service.router):
        app.include_router(router, prefix=PREFIX)
    app.openapi = functools.partial(_openapi, app)  # type: ignore[method-assign]
    bounded: ASGIApp = RateLimit(
        BodyLimit(HeadIsGet(AnyBodyIsJson(app))), context.allowance, context.settings.trusted_proxies
    )
    bounded = RequestIds(bounded)
    if context.settings.origins:
        bounded = CORSMiddleware(
            bounded,
            allow_origins=context.settings.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Prefer", "X-API-Key", "X-Gatepass-Namespace"],
            expose_headers=["Retry-After", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", HEADER],
        )
    return bounded


def _openapi(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1: wrong input is a 400 with our body here, and never FastAPI's 422; who calls is said by a header."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                if path.removeprefix(PREFIX) not in ("/health", "/detect-ip"):
                    operation["security"] = [{"key": []}, {"token": []}]
        for unused in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(unused, None)
        schema["components"]["securitySchemes"] = {
            "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            "token": {"type": "http", "scheme": "bearer", "description": "A token of Kubernetes or of a CI provider."},
        }
        app.openapi_schema = schema
    return app.openapi_schema
