"""Formats of a report: text, JSON, JUnit."""
