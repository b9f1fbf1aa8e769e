"""`gatepass sandbox`: the whole product on loopback."""

import typer

app = typer.Typer(help="A real API server, an EC2 emulator and Gatepass, on free loopback ports.", no_args_is_help=True)
