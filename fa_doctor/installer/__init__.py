"""Plans, applies, journals and undoes changes to a Python environment."""
