"""`gatepass audit`: prove the audit trail, take it elsewhere, and say where it ends."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gatepass.audit.proof import Verdict
    from gatepass.audit.trail import Trail

app = typer.Typer(
    help="The audit trail, at GATEPASS_DATABASE_URL.",
    no_args_is_help=True,
)

KeyFile = Annotated[
    Path,
    typer.Option(
        exists=True, dir_okay=False, envvar="GATEPASS_AUDIT_KEY_FILE", help="The keys, one in each line, newest last."
    ),
]
Url = Annotated[
    str | None,
    typer.Option("--database-url", envvar="GATEPASS_DATABASE_URL", hidden=True),  # a command line is no place for it
]


@app.command()
def verify(
    key_file: KeyFile,
    file: Annotated[
        list[Path] | None, typer.Argument(help="Exported files, in their order, instead of the database; - is stdin.")
    ] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="A file with a checkpoint that was kept elsewhere, such as an earlier export; repeat it."),
    ] = None,
    url: Url = None,
) -> None:
    """Prove that no entry was changed, moved, left out, put in or exchanged.

    Exits with 1 when the chain is broken, and names the first bad entry; with 2 when it cannot be read.
    """
    from gatepass.audit.chain import MalformedError
    from gatepass.audit.export import parse_checkpoints, prove_lines
    from gatepass.audit.keys import KeyFileError, Keyring
    from gatepass.audit.proof import BrokenError, Proof

    try:
        points = [point for path in checkpoint or () for point in parse_checkpoints(_lines([path]))]
        if checkpoint and not points:
            _fail("there is no checkpoint in the files given with --checkpoint")
        proof = Proof(Keyring.read(key_file), points)
        if file:
            prove_lines(proof, _lines(file))
        else:
            _with_trail(url, key_file, lambda trail: trail.prove(proof))
        verdict = proof.verdict()
    except BrokenError as error:
        print(f"BROKEN at {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except MalformedError:
        _fail("a checkpoint given with --checkpoint is none that Gatepass wrote", status=1)
    except (KeyFileError, OSError, UnicodeDecodeError) as error:
        _fail(str(error))
    if verdict.last < verdict.first and not file:
        _fail("the trail is empty: nothing has been written yet, or all of it was removed", status=1)
    _tell(verdict, kept_elsewhere=bool(points), in_files=bool(file))


def _tell(verdict: "Verdict", *, kept_elsewhere: bool, in_files: bool) -> None:
    print(f"entries {verdict.first} to {verdict.last} are as they were written, and none is missing between them")
    if not verdict.vouched:
        print(f"what was before entry {verdict.first} is in other files")
    elif verdict.first > 1:
        print(f"those before entry {verdict.first} were removed by retention, which an entry vouches for")
    for gap in verdict.gaps:
        print(gap)
    if verdict.unended:
        print(f"writers that have not ended in order: {verdict.unended} (those that run now are among them)")
    if not kept_elsewhere and not in_files:
        print("whether the end was cut off shows with --checkpoint only")


@app.command()
def export(
    key_file: KeyFile,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write there instead of printing.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Only entries with a higher number, to follow an export.")] = 0,
    url: Url = None,
) -> None:
    """Print all entries as JSON lines, with a signed checkpoint as the last line."""
    from contextlib import ExitStack

    from gatepass.audit.chain import Checkpoint
    from gatepass.audit.export import checkpoint_line, line
    from gatepass.audit.proof import BrokenError

    with ExitStack() as stack:
        out = stack.enter_context(output.open("w", newline="\n")) if output else sys.stdout

        async def write(trail: "Trail") -> None:
            async for found in trail.export(after):
                print(checkpoint_line(found) if isinstance(found, Checkpoint) else line(found), file=out)

        try:
            _with_trail(url, key_file, write)
        except BrokenError as error:
            _fail(str(error), status=1)


@app.command()
def checkpoint(key_file: KeyFile, url: Url = None) -> None:
    """Print a signed statement of where the trail ends; kept elsewhere, it shows later whether the end was cut off."""
    from datetime import UTC, datetime

    from gatepass.audit.export import checkpoint_line

    print(checkpoint_line(_with_trail(url, key_file, lambda trail: trail.checkpoint(datetime.now(UTC)))))


def _lines(files: list[Path]) -> "Any":
    for path in files:
        if str(path) == "-":
            yield from sys.stdin
        else:
            with path.open(newline="\n") as opened:
                yield from opened


def _with_trail(url: str | None, key_file: Path, work: "Callable[[Trail], Awaitable[Any]]") -> Any:
    import asyncio

    from sqlalchemy.exc import SQLAlchemyError

    from gatepass.audit.database import DatabaseUrlError
    from gatepass.audit.keys import KeyFileError
    from gatepass.audit.trail import Trail

    async def run() -> Any:
        trail = Trail(url or "", key_file)
        try:
            return await work(trail)
        finally:
            await trail.close()

    if url is None:
        _fail("GATEPASS_DATABASE_URL is not set")
    try:
        return asyncio.run(run())
    except (SQLAlchemyError, DatabaseUrlError, KeyFileError, OSError) as error:
        _fail(str(getattr(error, "orig", None) or error).split("\n")[0])


def _fail(message: str, status: int = 2) -> NoReturn:
    print(f"gatepass audit: {message}", file=sys.stderr)
    raise typer.Exit(status)
