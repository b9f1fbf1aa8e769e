"""The `gatepass` command; each subcommand imports what it needs when it runs, so that `--help` stays fast."""

import typer

from gatepass.cli import audit, crds, demo, iam_policy, manifests, operator, sandbox, sweep

app = typer.Typer(
    help="Opens cloud firewalls for CI jobs, for exactly as long as they need it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(operator.operator)
app.command()(operator.serve)
app.command()(operator.drain)
app.command()(crds.crds)
app.command()(manifests.manifests)
app.command()(iam_policy.iam_policy)
app.command()(sweep.sweep)
app.command()(demo.demo)
app.add_typer(audit.app, name="audit")
app.add_typer(sandbox.app, name="sandbox")


def main() -> None:
    """Run the command line."""
    app()
