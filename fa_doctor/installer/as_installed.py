"""`--stack installed`: torch and Triton stay exactly as they are, and only the attention kernels are added.

For environments that come with a torch of their own: images of ROCm, a build from source, a cluster's module.
"""

from __future__ import annotations

from collections.abc import Mapping

from fa_doctor.installer.choose import Choice, describe
from fa_doctor.installer.errors import Refused
from fa_doctor.installer.installed import Installed, triton_owners
from fa_doctor.installer.situation import Situation
from fa_doctor.knowledge.stacks import Stack

__all__ = ["NAME", "choose_installed"]

NAME = "installed"


def choose_installed(situation: Situation, installed: Mapping[str, Installed] | None) -> Choice:
    """The choice that keeps what is installed. Raises Refused when torch or Triton is missing, or Triton is mixed."""
    torch = (installed or {}).get("torch")
    if torch is None:
        raise Refused("--stack installed keeps the torch that is there, and there is none in this environment")
    owners = triton_owners(dict(installed or {}))
    if not owners:
        raise Refused(f"torch {torch.version} is there and no Triton: choose a stack that brings both")
    if len(owners) > 1:
        names = " and ".join(f"{owner.name} {owner.version}" for owner in owners)
        raise Refused(f"{names} are both installed and write the same files: choose a stack that cleans this up")
    release, _, local = torch.version.partition("+")
    stack = Stack(
        name=NAME,
        torch=release,
        local=local or None,
        index="none",
        url=None,
        rocm=None,
        triton=owners[0].name,
        triton_version=owners[0].version,
        python=(),
        archs=(),
        rocm_bundled=False,
        aotriton=None,
        torchvision=None,
        torchaudio=None,
        device_extra=False,
        cpu=not situation.targets,
        download_gb=None,
        installed_gb=None,
        note=None,
        confidence="verified",
        sources=(),
    )
    reasons = (f"torch {torch.version} and {owners[0].name} {owners[0].version} were to be kept",)
    return describe(stack, None, situation.targets, situation, list(reasons), [])
