"""Kinds of firewalls: each module adapts one to the engine's `Provider` port."""
