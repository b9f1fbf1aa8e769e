"""The chain as JSON lines: one for each entry, and a signed checkpoint at the end. Proven without a database."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

from gatepass.audit.chain import FIELDS, Checkpoint, MalformedError, Sealed
from gatepass.audit.proof import BrokenError, Proof

_CHECKPOINT: Final = "checkpoint"
_NAMES: Final = {"at": "timestamp", "event": "eventType", "key_id": "keyId"}


def _name(field: str) -> str:
    first, *rest = field.split("_")
    return _NAMES.get(field, first + "".join(map(str.capitalize, rest)))


_LINE: Final = {field: _name(field) for field in FIELDS}


def line(entry: Sealed) -> str:
    """The entry in one line, without its end."""
    values: dict[str, Any] = {_LINE[field]: value for field, value in asdict(entry).items()}
    details = _json(entry.details)
    if isinstance(details, dict) and json.dumps(details, sort_keys=True) == entry.details:
        values["details"] = details  # an object for whoever reads it; what is no canonical one is left as it is
    return json.dumps(values)


def checkpoint_line(point: Checkpoint) -> str:
    """The checkpoint in one line, without its end."""
    return json.dumps({_CHECKPOINT: {_name(field): value for field, value in asdict(point).items()}})


def parse(text: str) -> Sealed | Checkpoint:
    """What a line holds; raises MalformedError for every line but those written here, to the last blank."""
    found = _json(text)
    try:
        if isinstance(found, dict) and _CHECKPOINT in found:
            signed = found[_CHECKPOINT]
            point = Checkpoint(**{field: signed[_name(field)] for field in Checkpoint.__slots__})
            if checkpoint_line(point) == text:
                return point
        elif isinstance(found, dict):
            values = {field: found[name] for field, name in _LINE.items()}
            if isinstance(values["details"], dict):
                values["details"] = json.dumps(values["details"], sort_keys=True)
            entry = Sealed(**values)
            if line(entry) == text:
                return entry
    except (KeyError, TypeError):
        pass
    raise MalformedError("is no line that Gatepass writes")


def parse_checkpoints(lines: Iterable[str]) -> list[Checkpoint]:
    """The checkpoints among the lines of a file that was kept elsewhere; raises MalformedError for a broken one."""
    found = (parse(text.rstrip("\n")) for text in lines if text.startswith(f'{{"{_CHECKPOINT}"'))
    return [point for point in found if isinstance(point, Checkpoint)]


def prove_lines(proof: Proof, lines: Iterable[str]) -> None:
    """Take exported lines, to the last one; raises BrokenError."""
    seq, signed = 0, False
    for number, text in enumerate(lines, 1):
        try:
            found = parse(text.rstrip("\n"))
        except MalformedError as error:
            raise BrokenError(seq + 1, f"line {number} {error}") from None
        if isinstance(found, Checkpoint):
            proof.take_checkpoint(found)
            signed = True
        else:
            proof.take(found)
            seq, signed = found.seq, False
    if not signed:
        raise BrokenError(seq + 1, "the end is missing: no signed checkpoint is the last line")


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
