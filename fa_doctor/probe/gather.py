"""Which devices are probed with what, as facts of a machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fa_doctor.errors import UsageProblem
from fa_doctor.facts.probes import Probe
from fa_doctor.host import Host
from fa_doctor.probe.launch import launch
from fa_doctor.probe.points import SPEED_STEPS, speed_points

if TYPE_CHECKING:
    from fa_doctor.facts.gpus import Gpus
    from fa_doctor.facts.packages import FlashAttention, Torch
    from fa_doctor.facts.python import Python

__all__ = [
    "FEATURE_STEPS",
    "NO_SEARCH",
    "SDPA_STEP",
    "SMOKE_STEPS",
    "gather",
    "hiding_variable",
    "probed_devices",
    "python_with_torch",
    "smoke",
]

# The names of probe/child's steps. The child cannot be imported here (it imports torch when it runs), so they stand
# twice; a test holds both against each other.
SDPA_STEP = "scaled_dot_product_attention"  # judged apart: its faults are PyTorch's, not the kernels'
SMOKE_STEPS = (
    "import torch",
    "find the device",
    "allocate, copy and multiply",
    "import Triton",
    "run a one-line kernel",
    "compile the attention kernels",
    "attention forward",
    "attention backward",
    "decoding with a KV cache",
    "dropout, causal and softcap together",
    SDPA_STEP,
)
FEATURE_STEPS = ("import torch", "find the device", "import flash_attn", "try the features")
# A search for the best tiles at every first call would take minutes, and says nothing about whether kernels are right.
NO_SEARCH = {"FLASH_ATTENTION_TRITON_AMD_AUTOTUNE": "FALSE"}
_SHARE = 0.8  # of the time that is left: the rest is for the checks and the report


def python_with_torch(python: Python, torch: Torch | None, purpose: str) -> str:
    """The interpreter that runs the kernels; raises UsageProblem, which says what it lacks for `purpose`."""
    if python.executable is None:
        raise UsageProblem(python.problem or "there is no Python here to run the kernels with; --python names one")
    if python.problem is not None:
        raise UsageProblem(f"{python.executable} does not start: {python.problem}")
    if torch is None:
        raise UsageProblem(f"{python.executable} has no torch to {purpose} with; `fa-doctor install` sets it up")
    return python.executable


def probed_devices(host: Host, gpus: Gpus, torch: Torch | None) -> list[int | None]:
    """Ordinals of the devices that this process may use, or [None] where the kernels can only be interpreted."""
    if torch is not None and torch.build == "rocm":
        visible = [gpu for gpu in gpus.known if gpu.visible is not False]
        if visible:
            return list(range(len(visible)))
    # Kernels are proven on NVIDIA too. In a container sysfs may show none of its GPUs, but the node is there.
    nvidia = any(other.vendor == "NVIDIA" for other in gpus.others) or host.exists("/dev/nvidia0")
    if torch is not None and torch.build == "cuda" and nvidia:
        return [0]
    return [None]


def hiding_variable(host: Host, torch: Torch | None) -> str:
    """The variable by which a child is left one device: the one that is in force already, so that none is widened.

    HIP reads HIP_VISIBLE_DEVICES, and only without it CUDA_VISIBLE_DEVICES; both count among what ROCR_VISIBLE_DEVICES
    leaves.
    """
    environ = host.environ or {}
    if (torch is not None and torch.build == "cuda") or (
        "CUDA_VISIBLE_DEVICES" in environ and "HIP_VISIBLE_DEVICES" not in environ
    ):
        return "CUDA_VISIBLE_DEVICES"
    return "HIP_VISIBLE_DEVICES"


def smoke(host: Host, python: str, devices: list[int | None], timeout_s: float, hide_by: str | None) -> list[Probe]:
    """The smoke test on each of the devices, side by side."""
    return launch(host, python, "smoke", SMOKE_STEPS, devices, timeout_s, hide_by=hide_by, env=NO_SEARCH)


def gather(
    host: Host,
    python: Python,
    gpus: Gpus,
    torch: Torch | None,
    flash_attention: FlashAttention | None,
    deadline: float,
    *,
    speed: bool = False,
    only: list[int | None] | None = None,
) -> tuple[Probe, ...]:
    """Runs the smoke test on every device and, if a flash_attn is installed that is not ours, its features on the first.

    With `speed` those that passed are also timed. Nothing is run where there is no torch to run it with. `only` names
    the devices instead ([None]: the CPU). `deadline` is in time.monotonic seconds.
    """
    if python.executable is None or torch is None:
        return ()
    there = probed_devices(host, gpus, torch)
    devices = only if only is not None else there
    if only is None and devices == [None]:
        # No GPU that this torch can use: other checks say so. The interpreter on the CPU would prove nothing about one,
        # and takes a quarter of a minute; who wants it has `fa-doctor probe --device cpu`.
        return ()
    hide_by = hiding_variable(host, torch) if len(there) > 1 else None
    left = (deadline - time.monotonic()) * _SHARE
    probes = smoke(host, python.executable, devices, left, hide_by)
    foreign = flash_attention is not None and flash_attention.kind != "bundled"
    if foreign and devices != [None] and any(probe.complete for probe in probes):
        good = next(probe.device for probe in probes if probe.complete)
        left = (deadline - time.monotonic()) * _SHARE
        probes += launch(
            host, python.executable, "features", FEATURE_STEPS, [good], left, hide_by=hide_by, env=NO_SEARCH
        )
    if speed:
        # One after the other: devices that share a power budget or a host would disturb each other's times.
        for probe in [probe for probe in probes if probe.mode == "smoke" and probe.complete and probe.on_gpu]:
            left = min(180.0, (deadline - time.monotonic()) * _SHARE)
            request = {"points": speed_points()}
            probes += launch(
                host, python.executable, "speed", SPEED_STEPS, [probe.device], left, hide_by=hide_by, request=request
            )
    return tuple(probes)
