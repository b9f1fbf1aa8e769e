"""moto's own server application, called in this process."""

import io
import re
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from gatepass.sandbox.ec2.query import Answer, AwsError

_ERROR_CODE = re.compile(rb"<Code>([^<]+)</Code>|\"__type\": *\"([^\"]+)\"")
_SERVER_ERROR = 500
_REFUSED = 400


@dataclass(frozen=True)
class HttpRequest:
    """An HTTP request with its body read."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


class MotoApp:
    """Answers what no strict part answers. Not for several threads at once: moto's state has no locks."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)

    def ask(self, request: HttpRequest, account: str) -> Answer:
        """moto's answer as `account`; a crash of moto becomes an InternalFailure, its trace goes to stderr."""
        environ = _environ(request, account)
        started: dict[str, Any] = {}

        def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> None:
            started.update(status=int(status.split()[0]), headers=dict(headers))

        try:
            chunks = self._app(environ, start_response)
            body = b"".join(chunks)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            raise AwsError("InternalFailure", f"the emulator failed: {error!r}", _SERVER_ERROR) from error
        if hasattr(chunks, "close"):
            chunks.close()
        found = _ERROR_CODE.search(body) if started["status"] >= _REFUSED else None
        code = (found.group(1) or found.group(2)).decode() if found else ""
        headers = {name: value for name, value in started["headers"].items() if name.lower() != "content-length"}
        return Answer(started["status"], body, headers, code)


def _environ(request: HttpRequest, account: str) -> dict[str, Any]:
    headers = {**request.headers, "x-moto-account-id": account}
    named = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
    return {
        **named,
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query,
        "CONTENT_TYPE": named.get("HTTP_CONTENT_TYPE", ""),
        "CONTENT_LENGTH": str(len(request.body)),
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
