"""Measures attention over a grid of shapes, keeps what was measured, and shows it."""
