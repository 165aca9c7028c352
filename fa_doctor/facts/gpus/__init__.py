"""The GPUs of a machine: one reader a source, a merge with a clear precedence, and what is visible to this process.

- kfd, drm, pci_bus: sysfs, which comes first: it answers at once and needs no ROCm.
- rocminfo, amd_smi, rocm_smi, lspci: what tools print, asked only where sysfs is not enough.
- profiles, kept_texts, recorded_outputs: what else somebody kept of a recorded machine.
- override, visibility: what the environment makes of the devices.
- merge, gather: from the readings of all sources to `Gpus`.
"""

from fa_doctor.facts.gpus.gather import gather
from fa_doctor.facts.gpus.model import Gpu, Gpus, OtherGpu, Tool, ToolVersions

__all__ = ["Gpu", "Gpus", "OtherGpu", "Tool", "ToolVersions", "gather"]
