"""What people paste of a system besides its GPUs: torch's collect_env, uname, hipconfig, os-release, modinfo.

Nothing here is ever asked of a live machine; on one that somebody recorded these can be all that there is.
"""

from __future__ import annotations

import re

from fa_doctor.facts.gpus.profiles import Profile
from fa_doctor.facts.gpus.reading import Reading, lookup_text

__all__ = [
    "parse_collect_env",
    "parse_hipconfig",
    "parse_inxi",
    "parse_modinfo",
    "parse_os_release_text",
    "parse_uname",
]

_NVIDIA = 0x10DE
_KERNEL = r"[0-9]{1,2}\.[0-9]{1,3}[^\s,]{0,80}"


def parse_collect_env(text: str, source: str = "collect_env") -> Profile:
    """`python -m torch.utils.collect_env`, also as vLLM and others print it.

    On ROCm it names the first GPU only, with its gfx target: whether there are more it does not say.
    """
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and len(key) < 60:
            values.setdefault(key.strip().lower(), value.strip())
    gpus: tuple[Reading, ...] = ()
    first = re.fullmatch(
        r"(.{1,80}?)\s*\((gfx[0-9a-f]{3,5})(?::\S*)?\)", values.get("gpu models and configuration", "")
    )
    if first:
        gpus = (Reading(source=source, index=0, gfx_reported=first[2], name=lookup_text(first[1])),)
    named = re.findall(r"^GPU [0-9]{1,3}: (NVIDIA [^\n]{1,80})$", text, re.MULTILINE)
    others = tuple(Reading(source=f"{source}, GPU {n}", name=name, vendor_id=_NVIDIA) for n, name in enumerate(named))
    system = re.match(r"(.*?)\s*\((?:x86_64|aarch64|ppc64le)\)$", values.get("os", ""))
    kernel = re.match(rf"Linux-({_KERNEL}?)-(?:x86_64|aarch64|ppc64le)-", values.get("python platform", ""))
    hip = values.get("hip runtime version") or values.get("rocm used to build pytorch")
    return Profile(
        gpus=gpus,
        others=others,
        complete=False,
        kernel=kernel[1] if kernel else None,
        distribution=lookup_text(system[1]) if system else None,
        processor=lookup_text(values.get("model name")),
        hip_version=hip if hip and hip[:1].isdigit() else None,
    )


def parse_uname(text: str, source: str = "uname") -> Profile:
    """`uname -a` or `uname -r`, or the line of /proc/version."""
    match = re.search(rf"^(?:Linux (?:version |\S{{1,80}} ))?({_KERNEL})", text, re.MULTILINE)
    return Profile(kernel=match[1] if match else None, complete=False)


def parse_os_release_text(text: str, source: str = "os-release") -> Profile:
    """/etc/os-release, or what `lsb_release -a` and `hostnamectl` print."""
    match = re.search(
        r"^[ \t]*(?:PRETTY_NAME=\"?|Description:[ \t]*|Operating System:[ \t]*)([^\"\n]{1,100}?)\"?[ \t]*$",
        text,
        re.MULTILINE,
    )
    kernel = re.search(rf"^[ \t]*Kernel:[ \t]*(?:Linux )?({_KERNEL})", text, re.MULTILINE)
    return Profile(distribution=match[1] if match else None, kernel=kernel[1] if kernel else None, complete=False)


def parse_inxi(text: str, source: str = "inxi") -> Profile:
    """`inxi -F`, whose lines hold several values: "System: Host: box Kernel: 6.8.0-60-generic x86_64 Distro: ..."."""
    kernel = re.search(rf"\bKernel: ({_KERNEL})", text)
    distribution = re.search(r"\bDistro: (\S.{0,80}?)(?=\s+(?:base|Desktop|Machine|Console):|\s{2}|\n|$)", text)
    model = re.search(r"\bmodel: (.{1,80}?) bits:", text)
    return Profile(
        kernel=kernel[1] if kernel else None,
        distribution=distribution[1] if distribution else None,
        processor=model[1] if model else None,
        complete=False,
    )


def parse_hipconfig(text: str, source: str = "hipconfig") -> Profile:
    """`hipconfig --full` or `hipcc --version`. The release of ROCm stands in the path that it was installed to."""
    hip = re.search(r"^HIP version\s*:\s*(\S{1,60})", text, re.MULTILINE)
    rocm = re.search(
        r"^(?:ROCM_PATH|HIP_PATH|InstalledDir)\s*:\s*\S{0,100}/rocm-([0-9]+\.[0-9]+(?:\.[0-9]+)?)", text, re.MULTILINE
    )
    return Profile(hip_version=hip[1] if hip else None, rocm_version=rocm[1] if rocm else None, complete=False)


def parse_modinfo(text: str, source: str = "modinfo") -> Profile:
    """`modinfo amdgpu` (only AMD's package has a version), or `dkms status`."""
    match = re.search(r"^version:\s*(\S{1,60})", text, re.MULTILINE)
    match = match or re.search(r"^amdgpu[/,]\s*([0-9][^,\s]{0,60}),.*installed", text, re.MULTILINE)
    return Profile(driver_version=match[1] if match else None, complete=False)
