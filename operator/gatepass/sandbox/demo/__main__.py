"""Give the tour where KUBECONFIG and the AWS variables point, and exit with 1 if a step failed."""

import sys

from rich.console import Console

from gatepass.sandbox.demo.tour import Tour

_PLAIN_WIDTH = 120
_INTERRUPTED = 130


def main() -> None:
    """Give the tour on standard output, with colours if that is a terminal."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    console.print(
        "[bold]Gatepass[/] opens cloud firewalls for CI jobs, for exactly as long as they need it.\n"
        "What follows is kubectl and boto3 against a Kubernetes API server and an EC2 emulator on this machine."
    )
    try:
        held = Tour(console).run()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
