"""Proves a chain, entry by entry, or says which entry breaks it."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from hmac import compare_digest

from gatepass.audit.chain import GENESIS, Checkpoint, MalformedError, Sealed, seal_of
from gatepass.audit.keys import Key, Keyring
from gatepass.core.audit import EventType


class BrokenError(Exception):
    """The chain is broken; `seq` is the first entry that is not as it was written, or not where it was."""

    def __init__(self, seq: int, why: str) -> None:
        super().__init__(f"entry {seq}: {why}")
        self.seq = seq


@dataclass(frozen=True, slots=True)
class Verdict:
    """What has been proven: the entries `first` to `last` are as they were written, and none is missing between them.

    `vouched`: nothing was before them, or retention has removed it. `gaps` are what the chain itself tells of entries
    that never came into it; `unended` counts the writers that have not said that they ended: one that runs, or that
    was killed with what it held in memory.
    """

    first: int
    last: int
    seal: str
    keys: tuple[str, ...]
    vouched: bool
    gaps: tuple[str, ...]
    unended: int


class Proof:
    """Takes the entries of a chain in their order. Every method raises BrokenError.

    `expected` are checkpoints that were kept elsewhere: the chain has to agree with each that is not from before it.
    """

    def __init__(self, keys: Keyring, expected: Iterable[Checkpoint] = ()) -> None:
        self._keys = keys
        self._expected: defaultdict[int, list[Checkpoint]] = defaultdict(list)
        for point in expected:
            self._check_signature(point)
            self._expected[point.last].append(point)
        self._first: Sealed | None = None
        self._at: tuple[int, str] | None = None  # number and seal of what was taken last
        self._segment: tuple[int, str] | None = None  # number and previous seal of the first since a checkpoint
        self._signed = False
        self._pruned: set[tuple[int, str]] = set()
        self._gaps: list[str] = []
        self._writers: set[str] = set()
        self._used: dict[str, None] = {}

    def take(self, entry: Sealed) -> None:
        """The next entry."""
        self._check_place(entry)
        self._check_seal(entry)
        if self._first is None:
            self._first = entry
            self._meet(entry.seq - 1, entry.previous)
        self._segment = self._segment or (entry.seq, entry.previous)
        self._at = entry.seq, entry.seal
        self._used[entry.key_id] = None
        self._meet(*self._at)
        self._listen(entry)

    def _check_place(self, entry: Sealed) -> None:
        seq = entry.seq
        if type(seq) is not int:
            raise BrokenError(1 if self._at is None else self._at[0] + 1, "its number is none")
        if self._at is None:
            if seq < 1 or (seq == 1) != (entry.previous == GENESIS):
                raise BrokenError(seq, "it is no beginning of a chain")
            return
        before, seal = self._at
        if seq > before + 1:
            raise BrokenError(before + 1, f"it is missing: entry {before} is followed by {seq}")
        if seq <= before:
            raise BrokenError(seq, f"it stands after entry {before}")
        if entry.previous != seal:
            raise BrokenError(seq, f"it does not follow the entry {before} that is there")

    def _check_seal(self, entry: Sealed) -> None:
        key = self._key(entry.key_id)
        if key is None:
            raise BrokenError(entry.seq, f"it names the key {entry.key_id!r:.40}, which the file of keys does not have")
        latest = next(reversed(self._used), None)
        if latest is not None and self._keys.is_older(key.id, latest):
            raise BrokenError(entry.seq, f"it is sealed with the key {key.id}, which was out of use by then")
        try:
            fits = compare_digest(entry.seal, seal_of(key, asdict(entry)))
        except MalformedError as error:
            raise BrokenError(entry.seq, f"it {error}") from None
        except TypeError:
            fits = False
        if not fits:
            raise BrokenError(entry.seq, "its seal does not fit: it was changed, or written without the key")

    def _key(self, id_: object) -> Key | None:
        return self._keys.get(id_) if isinstance(id_, str) else None

    def _meet(self, seq: int, seal: str) -> None:
        for point in self._expected.pop(seq, ()):
            if point.seal != seal:
                raise BrokenError(seq, f"it is not the one that the checkpoint of {point.at} vouches for")

    def _listen(self, entry: Sealed) -> None:
        """What the chain says of itself; its seal has been proven by now."""
        try:
            match entry.event:
                case EventType.AUDIT_PRUNED:
                    told = entry.told()
                    self._pruned.add((int(told["through"]), told["seal"]))
                case EventType.AUDIT_TRUNCATED:
                    raise BrokenError(int(entry.told()["seq"]), _lost(entry))
                case EventType.AUDIT_GAP:
                    self._gaps.append(_gap(entry.seq, entry.told()))
                case EventType.AUDIT_STARTED:
                    self._writers.add(entry.told()["writer"])
                case EventType.AUDIT_STOPPED:
                    self._writers.discard(entry.told()["writer"])
        except (KeyError, ValueError, MalformedError):
            raise BrokenError(entry.seq, "its details are none that Gatepass writes") from None

    def take_checkpoint(self, point: Checkpoint) -> None:
        """A checkpoint that stands after the entries taken since the last one, as at the end of an exported file."""
        self._check_signature(point)
        if self._at is None:
            self._at = point.last, point.seal
        seq, seal = self._at
        first, previous = self._segment or (seq + 1, seal)
        if (point.last, point.seal) != (seq, seal):
            raise BrokenError(
                min(seq, point.last) + 1, f"the checkpoint vouches for entries to {point.last}, not {seq}"
            )
        if (point.first, point.previous) != (first, previous):
            raise BrokenError(
                min(point.first, first), f"the checkpoint vouches for entries from {point.first}, not {first}"
            )
        self._segment = None
        self._signed = True

    def _check_signature(self, point: Checkpoint) -> None:
        key = self._key(point.key_id)
        if key is None or not point.genuine(key):
            raise BrokenError(point.last, "the checkpoint that vouches for it is not signed with a key of ours")

    def verdict(self) -> Verdict:
        """What has been proven, once everything has been taken."""
        seq, seal = self._at or (0, GENESIS)
        first = self._first.seq if self._first else seq + 1
        beyond = [point for points in self._expected.values() for point in points if point.last > seq]
        if beyond:
            raise BrokenError(seq + 1, f"it is missing: the checkpoint of {beyond[0].at} vouches for {beyond[0].last}")
        vouched = self._first is None or first == 1 or (first - 1, self._first.previous) in self._pruned
        if not vouched and not self._signed:
            raise BrokenError(first - 1, "it is missing, and no retention of ours has removed it")
        return Verdict(first, seq, seal, tuple(self._used), vouched, tuple(self._gaps), len(self._writers))


def _lost(entry: Sealed) -> str:
    return f"it was written, and the writer found another or none in its place at {entry.at} (entry {entry.seq})"


def _gap(seq: int, told: Mapping[str, str]) -> str:
    return f"entry {seq}: {told['lost']} entries from {told['from']} to {told['to']} were lost"
