"""Deterministic simulation: hours of churn and faults in a second, from a seed that replays to the same step."""
