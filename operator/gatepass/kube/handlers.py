"""What is called with each event: parse, store, enqueue. Nothing here waits, decides or writes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import kopf
import structlog
from pydantic import ValidationError

from gatepass.core.types.binding import PLURAL as BINDINGS
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import GROUP, VERSION, Custom, Key
from gatepass.core.types.resource import PLURAL as RESOURCES
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import PLURAL as SESSIONS
from gatepass.core.types.session import AccessSession
from gatepass.engine.engine import Engine
from gatepass.engine.store import Namespace

log = structlog.get_logger(__name__)

C = TypeVar("C", bound=Custom)


@dataclass(frozen=True, slots=True)
class Followed(Generic[C]):
    """One of our kinds: its plural, what is known of it, and whom to tell."""

    plural: str
    kind: type[C]
    known: Mapping[Key, C]
    seen: Callable[[C], None]
    gone: Callable[[Key, str], None]

    def take(self, body: Mapping[str, Any]) -> None:
        """An object as it is now; what is known already need not be parsed again."""
        if not is_echo(self.known, body) and (found := parse(self.kind, body)) is not None:
            self.seen(found)

    def happened(self, event: Mapping[str, Any]) -> None:
        """What a watch tells."""
        if event["type"] == "DELETED":
            self.gone(*identity(event["object"]))
        else:
            self.take(event["object"])


def followed(engine: Engine) -> tuple[Followed[Any], ...]:
    """Our kinds, in the order in which they are best heard of."""
    return *followed_by_kopf(engine), followed_sessions(engine)


def followed_by_kopf(engine: Engine) -> tuple[Followed[Any], ...]:
    """Those that are few, and that nobody waits for."""
    store = engine.store
    return (
        Followed(RESOURCES, ProtectedResource, store.resources, engine.resource_seen, engine.resource_gone),
        Followed(BINDINGS, ApiKeyBinding, store.bindings, engine.binding_seen, engine.binding_gone),
    )


def followed_sessions(engine: Engine) -> Followed[AccessSession]:
    """The kind that `kube/sessions.py` follows."""
    return Followed(SESSIONS, AccessSession, engine.store.sessions, engine.session_seen, engine.session_gone)


def register(registry: kopf.OperatorRegistry, engine: Engine) -> None:
    """Register kopf's handlers. `on.event` never writes to the objects, and our queue owns the retries."""

    for each in followed_by_kopf(engine):
        _follow(registry, each)

    @kopf.on.event("", "v1", "namespaces", registry=registry)
    async def namespace_event(event: kopf.RawEvent, **_: Any) -> None:
        body = event["object"]
        if event["type"] == "DELETED":
            engine.namespace_gone(body["metadata"]["name"], body["metadata"]["uid"])
        else:
            engine.namespace_seen(parse_namespace(body))


def _follow(registry: kopf.OperatorRegistry, followed: Followed[Any]) -> None:
    @kopf.on.event(GROUP, VERSION, followed.plural, registry=registry)
    async def event_of_kind(event: kopf.RawEvent, **_: Any) -> None:
        followed.happened(event)


def is_echo(known: Mapping[Key, Custom], body: Mapping[str, Any]) -> bool:
    """Is it what is known already, by a write of ours, a listing or a watch? Then it need not be parsed again."""
    before = known.get(identity(body)[0])
    return before is not None and before.metadata.resource_version == body["metadata"]["resourceVersion"]


def parse(kind: type[C], body: Mapping[str, Any]) -> C | None:
    """The object; one that a newer version has written in a way we cannot read is left as it was last understood."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        problems = [(".".join(map(str, problem["loc"])), problem["msg"]) for problem in error.errors()]
        log.warning("cannot read object", kind=kind.__name__, object=str(identity(body)[0]), problems=problems)
        return None


def parse_namespace(body: Mapping[str, Any]) -> Namespace:
    """The parts of a namespace that decide anything."""
    metadata = body["metadata"]
    return Namespace(
        metadata["name"],
        metadata["uid"],
        int(metadata["resourceVersion"]),
        metadata.get("labels") or {},
        "deletionTimestamp" in metadata,
    )


def identity(body: Mapping[str, Any]) -> tuple[Key, str]:
    """Where the object lives, and its uid."""
    metadata = body["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"]), metadata["uid"]
