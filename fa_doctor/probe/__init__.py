"""Runs the attention kernels in a child of the target Python and reads what it reports."""
