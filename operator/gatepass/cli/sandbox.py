"""`gatepass sandbox`: the whole product on loopback."""

import secrets
import sys
from typing import Annotated

import typer

app = typer.Typer(
    help="A real API server, an EC2 emulator and Gatepass, on free loopback ports.",
    no_args_is_help=True,
)

NoOperator = Annotated[bool, typer.Option("--no-operator", help="Do not run the operator; CMD can start it itself.")]
Ec2Faults = Annotated[
    str,
    typer.Option(
        metavar="PROFILE",
        help="What goes wrong at EC2, one or several with commas: none, throttles, slow, errors, resets, lag, vanish, "
        "denied, expired, quota, meddling. Any other name tells what each does.",
    ),
]
Ec2Seed = Annotated[
    int | None, typer.Option(min=0, help="What the faults are drawn from, to meet the same ones again; else a new one.")
]

Caller = Annotated[
    str, typer.Option("--caller", metavar="ADDRESS", help="Whom the load balancer before the REST API says it saw.")
]


@app.command()
def run(
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="What to run, with all its arguments.")],
    no_operator: NoOperator = False,
    ec2_faults: Ec2Faults = "none",
    ec2_seed: Ec2Seed = None,
    caller: Caller = "203.0.113.10",
) -> None:
    """Run CMD inside a sandbox and exit with its status.

    CMD finds kubectl on PATH and KUBECONFIG, AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
    GATEPASS_TOKEN (a bearer token of a cluster admin), GATEPASS_API_URL (the REST API, behind a stand-in for a load
    balancer), GATEPASS_OPERATOR_KUBECONFIG (Gatepass's own account), GATEPASS_DATABASE_URL and GATEPASS_AUDIT_KEY_FILE
    (the audit trail, as for `gatepass audit`) set.
    """
    from gatepass.sandbox.command import InterruptedBySignalError, ended_by_signals
    from gatepass.sandbox.command import run as run_command
    from gatepass.sandbox.environment import Sandbox
    from gatepass.sandbox.errors import SandboxError

    seed = _seed(ec2_faults, ec2_seed)
    try:
        with (
            ended_by_signals(),
            Sandbox(operator=not no_operator, ec2_faults=ec2_faults, ec2_seed=seed, caller=caller) as sandbox,
        ):
            status = run_command(command, sandbox.env)
            sandbox.keep_logs = status != 0
    except InterruptedBySignalError as interruption:
        raise typer.Exit(interruption.status) from None
    except SandboxError as error:
        _fail(error)
    raise typer.Exit(status)


@app.command()
def up(
    no_operator: NoOperator = False,
    ec2_faults: Ec2Faults = "none",
    ec2_seed: Ec2Seed = None,
    caller: Caller = "203.0.113.10",
) -> None:
    """Keep a sandbox until Ctrl-C, and print what a shell needs to use it."""
    import shlex
    import signal

    from gatepass.sandbox.command import InterruptedBySignalError, ended_by_signals
    from gatepass.sandbox.environment import Sandbox
    from gatepass.sandbox.errors import SandboxError

    seed = _seed(ec2_faults, ec2_seed)
    try:
        with (
            ended_by_signals(),
            Sandbox(operator=not no_operator, ec2_faults=ec2_faults, ec2_seed=seed, caller=caller) as sandbox,
        ):
            for name, value in sandbox.changes.items():
                print(f"export {name}={shlex.quote(value)}")
            sys.stdout.flush()
            print(
                f"The sandbox is up; its logs are in {sandbox.directory}. Paste the lines above into another shell, "
                "then try `kubectl get accesssessions -A`. Ctrl-C ends it.",
                file=sys.stderr,
                flush=True,
            )
            while True:
                signal.pause()
    except InterruptedBySignalError:
        raise typer.Exit(0) from None
    except SandboxError as error:
        _fail(error)


@app.command()
def prepare() -> None:
    """Fetch or build the programs of the sandbox now, so that the first `run` does not have to."""
    from gatepass.sandbox import binaries
    from gatepass.sandbox.command import InterruptedBySignalError, ended_by_signals
    from gatepass.sandbox.errors import SandboxError

    try:
        with ended_by_signals():
            print(binaries.kubernetes())
    except InterruptedBySignalError as interruption:
        raise typer.Exit(interruption.status) from None
    except SandboxError as error:
        _fail(error)


def _seed(profile: str, given: int | None) -> int:
    """The seed of the faults, which is said whenever there are any."""
    seed = secrets.randbelow(2**32) if given is None else given
    if profile != "none":
        print(f"gatepass sandbox: --ec2-faults {profile} --ec2-seed {seed}", file=sys.stderr, flush=True)
    return seed


def _fail(error: Exception) -> None:
    print(f"gatepass sandbox: {error}", file=sys.stderr)
    raise typer.Exit(1) from None
