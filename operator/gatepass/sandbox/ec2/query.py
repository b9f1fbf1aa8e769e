"""AWS's query protocol: nested parameters out of a form, answers and errors as XML or JSON."""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

EC2_NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
STS_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
_SCOPE = re.compile(r"Credential=([^/,\s]+)/\d+/([^/]+)/([^/]+)/aws4_request")


class AwsError(Exception):
    """A refusal in AWS's terms: its error code, message and HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; `code` is AWS's error code, empty on success."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    code: str = ""


@dataclass(frozen=True)
class Call:
    """One request, as far as it can be told before anybody is asked who its key belongs to."""

    service: str
    region: str
    access_key: str
    action: str
    params: Mapping[str, Any]


def parse_call(authorization: str, target: str, content_type: str, body: bytes) -> Call:
    """Read a signed request: the credential scope, the action, and its parameters as nested mappings and lists."""
    scope = _SCOPE.search(authorization)
    access_key, region, service = scope.groups() if scope else ("", "us-east-1", "")
    if target:  # the JSON protocols name the action in a header
        return Call(service, region, access_key, target.rpartition(".")[2], _json_params(body))
    if content_type.startswith("application/x-www-form-urlencoded"):
        flat = dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))
        return Call(service, region, access_key, flat.get("Action", ""), nested(flat))
    return Call(service, region, access_key, "", {})


_REST: Mapping[str, str] = {"POST": "CreateSchedule", "PUT": "UpdateSchedule", "DELETE": "DeleteSchedule"}


def rest_action(service: str, method: str, path: str) -> str:
    """The action of a call to Scheduler, whose protocol has it in the method and the path; empty for any other."""
    if service != "scheduler":
        return ""
    return _REST.get(method, "ListSchedules" if path == "/schedules" else "GetSchedule")


def _json_params(body: bytes) -> Mapping[str, Any]:
    try:
        params = json.loads(body)
    except ValueError:
        return {}
    return params if isinstance(params, dict) else {}


def nested(flat: Mapping[str, str]) -> dict[str, Any]:
    """`{"A.1.B": "x", "A.2.B": "y"}` becomes `{"A": [{"B": "x"}, {"B": "y"}]}`, lists in the order of their numbers."""
    root: dict[str, Any] = {}
    for name, value in flat.items():
        if name in {"Action", "Version"}:
            continue
        at = root
        *path, last = name.split(".")
        for part in path:
            child = at.setdefault(part, {})
            if not isinstance(child, dict):
                raise AwsError("InvalidParameterCombination", f"{name} is both a value and a structure")
            at = child
        at[last] = value
    return {name: _listed(value) for name, value in root.items()}


def _listed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if all(name.isdigit() for name in value):
        return [_listed(value[name]) for name in sorted(value, key=int)]
    return {name: _listed(inner) for name, inner in value.items()}


def ec2_answer(action: str, content: str) -> Answer:
    """A successful answer of EC2 around rendered elements."""
    request_id = uuid.uuid4()
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="{EC2_NAMESPACE}">'
        f"<requestId>{request_id}</requestId>{content}</{action}Response>"
    )
    return Answer(200, body.encode(), {"Content-Type": "text/xml;charset=UTF-8", "x-amzn-requestid": str(request_id)})


def error_answer(service: str, error: AwsError) -> Answer:
    """`error` in the form that this service's clients parse."""
    request_id = str(uuid.uuid4())
    headers = {"Content-Type": "text/xml;charset=UTF-8", "x-amzn-requestid": request_id}
    code, message = escape(error.code), escape(error.message)
    if service == "ec2":
        text = (
            f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
            f"<RequestID>{request_id}</RequestID></Response>"
        )
    elif service == "sts":
        text = (
            f'<ErrorResponse xmlns="{STS_NAMESPACE}"><Error><Type>Sender</Type><Code>{code}</Code>'
            f"<Message>{message}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
        )
    else:
        headers = {"Content-Type": "application/x-amz-json-1.1", "x-amzn-requestid": request_id}
        headers["x-amzn-errortype"] = error.code
        text = json.dumps({"__type": error.code, "message": error.message})
    return Answer(error.status, text.encode(), headers, error.code)


def elements(content: Mapping[str, Any]) -> str:
    """Render nested values as EC2 does: lists as `item` elements, absent values not at all."""
    return "".join(_element(name, value) for name, value in content.items() if value is not None)


def _element(name: str, value: Any) -> str:
    if isinstance(value, bool):
        inner = "true" if value else "false"
    elif isinstance(value, Mapping):
        inner = elements(value)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        inner = "".join(_element("item", item) for item in value)
    else:
        inner = escape(str(value))
    return f"<{name}>{inner}</{name}>"
