"""The emulator's HTTP server, with a control endpoint for tests: `python -m gatepass.sandbox.ec2`.

AWS's calls are POSTs to `/`. Below `/_gatepass/`, past all throttles and faults:

    GET  ready                                  204 when calls are answered
    GET  log?since=SEQ                          {"entries": [...], "last": SEQ, "under_way": [...]}
    GET  rules?account=&region=&group=&group=   {"groups": {"sg-..": [...]}}, the truth; null where there is no group
    GET  faults, PUT faults?seed=               a list of faults; PUT replaces all, drawn from the seed
    PUT  credentials/KEY                        {"account": ..} or {"refused": true}
    PUT  roles                                  {"ROLE ARN": {"external_id": ..} or {"refused": true}}
    PUT  throttles                              false: no call is throttled; true, as at the start: as AWS does
    PUT  quotas/ACCOUNT/REGION                  the number of rules per family that a group may have
"""

import asyncio
import signal
import socket
import struct
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from gatepass.sandbox.ec2.calllog import CallLog
from gatepass.sandbox.ec2.emulator import Emulator
from gatepass.sandbox.ec2.faults import Fault
from gatepass.sandbox.ec2.identity import Credential, Role
from gatepass.sandbox.ec2.motoapp import HttpRequest
from gatepass.sandbox.ec2.query import parse_call, rest_action

DEFAULT_ACCOUNT = "123456789012"
_T = TypeVar("_T")
_BODY_LIMIT = 16 * 1024 * 1024
_FAULTS: TypeAdapter[list[Fault]] = TypeAdapter(list[Fault])
_ROLES: TypeAdapter[dict[str, Role]] = TypeAdapter(dict[str, Role])


class Server:
    """The HTTP side of one emulator."""

    def __init__(self, emulator: Emulator, log: CallLog) -> None:
        self._emulator = emulator
        self._log = log
        self._under_way: list[dict[str, Any]] = []

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=_BODY_LIMIT)
        control = "/_gatepass"
        app.add_routes(
            [
                web.get(f"{control}/ready", self._ready),
                web.get(f"{control}/log", self._get_log),
                web.get(f"{control}/rules", self._get_rules),
                web.get(f"{control}/faults", self._get_faults),
                web.put(f"{control}/faults", self._put_faults),
                web.put(f"{control}/credentials/{{key}}", self._put_credential),
                web.put(f"{control}/roles", self._put_roles),
                web.put(f"{control}/throttles", self._put_throttles),
                web.put(f"{control}/quotas/{{account}}/{{region}}", self._put_quota),
                web.route("*", "/{path:.*}", self._aws),
            ]
        )
        return app

    async def _aws(self, request: web.Request) -> web.StreamResponse:
        arrived, started = datetime.now(UTC), time.perf_counter()
        headers, body = dict(request.headers), await request.read()
        call = parse_call(
            request.headers.get("Authorization", ""),
            request.headers.get("X-Amz-Target", ""),
            request.headers.get("Content-Type", ""),
            body,
        )
        if not call.action:
            call = replace(call, action=rest_action(call.service, request.method, request.path))
        entry: dict[str, Any] = {}
        asked = HttpRequest(request.method, request.path, request.query_string, headers, body)
        self._under_way.append(entry)
        try:
            try:
                outcome = await self._emulator.answer(call, asked, entry)
            finally:
                self._log.add(arrived, time.perf_counter() - started, entry)
            outcome.edits()
            await asyncio.sleep(outcome.delay)
        finally:
            self._under_way.remove(entry)
        if (answer := outcome.answer) is None:
            _cut(request)
            return web.Response()  # goes nowhere: the connection is closed
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    async def _ready(self, _: web.Request) -> web.Response:
        return web.Response(status=204)

    async def _get_log(self, request: web.Request) -> web.Response:
        entries, last = self._log.since(int(request.query.get("since", "0")))
        under_way = [{"group": entry.get("group"), "action": entry.get("action")} for entry in self._under_way]
        return web.json_response({"entries": entries, "last": last, "under_way": under_way})

    async def _get_rules(self, request: web.Request) -> web.Response:
        account = request.query.get("account", DEFAULT_ACCOUNT)
        groups = self._emulator.true_rules(account, request.query["region"], request.query.getall("group", []))
        return web.json_response({"groups": groups})

    async def _get_faults(self, _: web.Request) -> web.Response:
        return web.json_response(self._emulator.faults.report())

    async def _put_faults(self, request: web.Request) -> web.Response:
        faults = _parsed(_FAULTS, await request.read())
        self._emulator.faults.replace(faults, int(request.query.get("seed", "0")))
        return web.Response(status=204)

    async def _put_credential(self, request: web.Request) -> web.Response:
        credential = _parsed(TypeAdapter(Credential), await request.read())
        self._emulator.identities.credentials[request.match_info["key"]] = credential
        return web.Response(status=204)

    async def _put_roles(self, request: web.Request) -> web.Response:
        roles = _parsed(_ROLES, await request.read())
        self._emulator.identities.roles.update(roles)
        return web.Response(status=204)

    async def _put_throttles(self, request: web.Request) -> web.Response:
        self._emulator.throttle.on = _parsed(TypeAdapter(bool), await request.read())
        return web.Response(status=204)

    async def _put_quota(self, request: web.Request) -> web.Response:
        at = (request.match_info["account"], request.match_info["region"])
        self._emulator.quotas[at] = _parsed(TypeAdapter(int), await request.read())
        return web.Response(status=204)


def _parsed(adapter: TypeAdapter[_T], body: bytes) -> _T:
    try:
        return adapter.validate_json(body)
    except ValidationError as error:
        raise web.HTTPBadRequest(text=str(error)) from error


def _cut(request: web.Request) -> None:
    """Close with a reset and not an orderly end: that is what a lost path looks like."""
    transport = request.transport
    if transport is None:
        return
    if (connection := transport.get_extra_info("socket")) is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def serve(port: int, log_path: Path) -> None:
    """Serve on 127.0.0.1:`port` until SIGTERM or SIGINT."""
    log, ended = CallLog(log_path), asyncio.Event()
    emulator = Emulator(lambda entry: log.add(datetime.now(UTC), 0.0, entry))
    emulator.warm_up()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    runner = web.AppRunner(Server(emulator, log).application(), access_log=None, keepalive_timeout=3600.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, backlog=512, shutdown_timeout=0.1).start()
        await ended.wait()
    finally:
        await runner.cleanup()
        log.close()
