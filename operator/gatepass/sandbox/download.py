"""Fetch official release files and hold them to the checksum that their site publishes beside them."""

import hashlib
import http.client
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatepass.sandbox.errors import SandboxError
from gatepass.sandbox.progress import Step, say, step

CONNECT_SECONDS = 3.0
STALL_SECONDS = 10.0
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Download:
    """One program: where it is, where its SHA-256 is published, and which member of the archive it is.

    `checksum_url` holds either the bare hex digest or lines of `digest  file name`; https only for real use.
    """

    name: str
    url: str
    checksum_url: str
    member: str | None = None


def fetch(files: Sequence[Download], folder: Path, title: str) -> bool:
    """Put the programs into `folder`, executable.

    False when the site cannot be reached within CONNECT_SECONDS or sends nothing for STALL_SECONDS, with one line
    to stderr saying why. Raises SandboxError when a checksum differs: that must never be built around in silence.
    """
    checksums = _checksums(files)
    if isinstance(checksums, str):
        say(f"{title}: not possible from here ({checksums})")
        return False
    try:
        with step(title, "MB") as progress:
            fetched = 0
            for file in files:
                fetched = _fetch_one(file, checksums[file.name], folder, progress, fetched)
    except (OSError, http.client.HTTPException) as error:
        say(f"{title}: broke off ({error})")
        return False
    return True


def _checksums(files: Sequence[Download]) -> dict[str, str] | str:
    """The published digests by program, or why they cannot be had; gives the first one CONNECT_SECONDS."""
    outcome: dict[str, str] = {}
    failure: list[str] = []
    first = threading.Event()

    def read() -> None:
        try:
            for file in files:
                with urllib.request.urlopen(file.checksum_url, timeout=CONNECT_SECONDS) as answer:  # noqa: S310
                    outcome[file.name] = _digest_in(answer.read(1 << 20).decode(), file.url.rsplit("/", 1)[-1])
                first.set()
        except (OSError, ValueError, http.client.HTTPException) as error:
            failure.append(str(error))
        finally:
            first.set()

    # A thread, because no timeout of the standard library bounds the resolver.
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    if not first.wait(CONNECT_SECONDS):
        return f"no answer within {CONNECT_SECONDS:.0f} s"
    reader.join(STALL_SECONDS)
    if failure or len(outcome) < len(files):
        return failure[0] if failure else f"no checksums within {STALL_SECONDS:.0f} s"
    return outcome


def _digest_in(text: str, name: str) -> str:
    for line in text.splitlines():
        digest, _, of = line.strip().partition(" ")
        if len(digest) == hashlib.sha256().digest_size * 2 and of.strip().lstrip("*") in {"", name}:
            return digest.lower()
    raise ValueError(f"the published checksums do not name {name}")


def _fetch_one(file: Download, expected: str, folder: Path, progress: Step, before: int) -> int:
    digest, fetched = hashlib.sha256(), before
    archive = folder / f"{file.name}.part"
    with urllib.request.urlopen(file.url, timeout=STALL_SECONDS) as answer, archive.open("wb") as out:  # noqa: S310
        while chunk := answer.read(_CHUNK):
            digest.update(chunk)
            out.write(chunk)
            fetched += len(chunk)
            progress.update(fetched / 1e6, None)
    if digest.hexdigest() != expected:
        raise SandboxError(f"{file.url} has SHA-256 {digest.hexdigest()}, but {expected} is published: not used")
    program = folder / file.name
    if file.member is None:
        archive.rename(program)
    else:
        with tarfile.open(archive) as tar:
            content = tar.extractfile(file.member)
            if content is None:
                raise SandboxError(f"{file.url} has no file {file.member}")
            program.write_bytes(content.read())
        archive.unlink()
    program.chmod(0o755)
    return fetched
