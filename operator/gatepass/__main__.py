"""`python -m gatepass` is the `gatepass` command."""

from gatepass.cli import main

main()
