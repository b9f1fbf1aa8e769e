"""Deterministic simulation: a day of churn and faults in a few seconds, from a seed that replays to the same step."""
