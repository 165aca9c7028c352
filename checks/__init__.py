"""Checks, one file a topic: pure functions from a Machine to Findings."""
