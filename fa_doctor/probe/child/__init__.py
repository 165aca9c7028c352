"""Runs in a child of the target Python, which need not have fa-doctor: imports only torch, Triton and itself, relatively."""
