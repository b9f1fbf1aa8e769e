"""The engine: level-triggered reconciliation of firewall objects, through ports only."""
