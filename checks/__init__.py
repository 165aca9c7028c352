"""Checks, one file a topic: pure functions from a Machine to Findings."""

from importlib import import_module

__all__ = ["TOPICS", "load_all"]

# From the hardware up: the order in which a report lists them.
TOPICS: tuple[str, ...] = (
    "gpu",
    "gpu_selection",
    "gpu_state",
    "driver",
    "container",
    "system",
    "rocm",
    "torch",
    "triton",
    "libraries",
    "imports",
    "compiler",
    "variables",
    "flash_attention",
    "attention_speed",
    "resources",
    "kernels",
    "kernel_speed",
    "speed",
)


def load_all() -> None:
    """Imports every topic, which registers its checks."""
    for topic in TOPICS:
        import_module(f"fa_doctor.checks.{topic}")
