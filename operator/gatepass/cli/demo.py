"""`gatepass demo`: the main job, narrated, on real parts."""

import sys

import typer


def demo() -> None:
    """Watch Gatepass open and close a firewall, on a real API server and an EC2 emulator on this machine.

    Every sentence of the tour is checked; exits with 1 if one does not hold, and says which.
    """
    from gatepass.sandbox.command import InterruptedBySignalError, ended_by_signals, run
    from gatepass.sandbox.environment import Sandbox
    from gatepass.sandbox.errors import SandboxError

    print("Starting a Kubernetes API server, an EC2 emulator and Gatepass ...", file=sys.stderr, flush=True)
    try:
        with ended_by_signals(), Sandbox() as sandbox:
            # A process of its own, so that the tour has nothing but what a user has.
            status = run([sys.executable, "-m", "gatepass.sandbox.demo"], sandbox.env)
            sandbox.keep_logs = status != 0
    except InterruptedBySignalError as interruption:
        raise typer.Exit(interruption.status) from None
    except SandboxError as error:
        print(f"gatepass demo: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    raise typer.Exit(status)
