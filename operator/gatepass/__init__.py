"""Gatepass opens cloud firewalls for CI jobs, for exactly as long as they need it."""

__version__ = "0.1.0"
