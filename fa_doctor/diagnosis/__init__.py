"""Findings, fixes, and the engine that runs checks over a machine."""
