"""What follows from the facts of a context: vendor, GPU family, whether an override or two ROCm versions fit."""

from __future__ import annotations

import re
from operator import itemgetter

from fa_doctor.diagnosis.context import FOREIGN, LOG, VENDORS, Context, Fact, family_of
from fa_doctor.knowledge.tables import load

__all__ = ["derive", "gfx_of_override"]

# Which ROCm torch prints messages that a CUDA build never does: enough to know the build.
ONLY_HIP = re.compile(r"No HIP GPUs are available|HIP out of memory|HIP error:|hipErrorNoBinaryForGpu", re.IGNORECASE)


def gfx_of_override(value: str) -> str | None:
    """The target that HSA_OVERRIDE_GFX_VERSION names: `10.3.0` -> `gfx1030`, `9.0.10` -> `gfx90a`. None: malformed."""
    found = re.fullmatch(r"(\d{1,2})\.(\d{1,2})\.(\d{1,2})", value.strip())
    if not found:
        return None
    major, minor, stepping = (int(part) for part in found.groups())
    return f"gfx{major}{minor:x}{stepping:x}" if minor < 16 and stepping < 16 else None


def derive(context: Context, evidence_text: str = "") -> None:
    """Adds the derived facts. `evidence_text`: the lines that matched a pattern, for what only their wording shows."""
    put_gpu(context)
    put_vendor(context)
    put_torch(context, evidence_text)
    put_override(context)
    put_devices(context)
    put_allocation(context)
    put_place(context)


def put(
    context: Context, name: str, value: str | float | bool | tuple[str, ...], reason: str, origin: str = LOG
) -> None:
    if name not in context.facts:
        context.facts[name] = Fact(value, origin, reason)


def put_gpu(context: Context) -> None:
    named, direct = context.facts.get("gfx_by_name"), context.facts.get("gfx")
    spoken_of = {gfx for fact in (named, direct) if fact and isinstance(fact.value, tuple) for gfx in fact.value}
    display_only = spoken_of & set(load("log_facts")["display_only"])
    if display_only and spoken_of - display_only:
        put(context, "integrated_beside_discrete", True, f"{', '.join(sorted(spoken_of))} are named")
    if named and not direct:
        context.facts["gfx"] = named
        direct = named
    if direct and isinstance(direct.value, tuple):
        families = tuple(dict.fromkeys(family for gfx in direct.value if (family := family_of(gfx))))
        if families:
            put(context, "gfx_family", families, direct.text, direct.origin)


def put_vendor(context: Context) -> None:
    signs = context.signs
    amd = signs.get("amd_hardware", 0.0)
    foreign, most = max(((name, signs.get(f"{name}_hardware", 0.0)) for name in FOREIGN), key=itemgetter(1))
    amd_software, nvidia_software = signs.get("amd_software", 0.0), signs.get("nvidia_software", 0.0)
    if amd or most:
        vendor = "amd" if amd + 0.4 * amd_software >= most else foreign
    elif amd_software:
        vendor = "amd" if amd_software >= 0.5 * nvidia_software else "nvidia-software"
    elif nvidia_software:
        vendor = "nvidia-software"
    else:
        return
    maker = vendor.split("-")[0]
    words = list(dict.fromkeys(context.named.get(maker, ())))
    put(context, "vendor", vendor, f"{VENDORS[maker]} is named: {', '.join(words[:4])}")


def put_torch(context: Context, evidence_text: str) -> None:
    torch = context.facts.get("torch")
    text = str(torch.value) if torch else ""
    local = re.search(r"\+rocm(\d+\.\d+(?:\.\d+)?)", text)
    if torch and local:
        put(context, "torch_rocm", local.group(1), torch.text, torch.origin)
    if "torch_rocm" in context.facts:
        rocm = context.facts["torch_rocm"]
        put(context, "torch_build", "rocm", rocm.text, rocm.origin)
    elif torch and re.search(r"\+cu\d", text):
        put(context, "torch_build", "cuda", torch.text, torch.origin)
    elif torch and "+cpu" in text:
        put(context, "torch_build", "cpu", torch.text, torch.origin)
    elif torch and re.search(r"rocm", torch.text + text, re.IGNORECASE):
        put(context, "torch_build", "rocm", torch.text, torch.origin)
    elif found := ONLY_HIP.search(evidence_text):
        put(context, "torch_build", "rocm", found.group(0))
    system, wheel = context.facts.get("rocm"), context.facts.get("torch_rocm")
    if system and wheel:
        ours, theirs = (re.search(r"\d+", str(fact.value)) for fact in (system, wheel))
        if ours and theirs and ours.group() != theirs.group():
            put(context, "rocm_major_differs", True, f"{system.text}; {wheel.text}", system.origin)


def put_override(context: Context) -> None:
    override = context.facts.get("env.HSA_OVERRIDE_GFX_VERSION")
    if not override or not str(override.value).strip():
        return
    faked = gfx_of_override(str(override.value))
    put(context, "override", True, override.text, override.origin)
    if faked is None:
        put(context, "override_malformed", True, override.text, override.origin)
        return
    put(context, "override_gfx", faked, override.text, override.origin)
    real = context.facts.get("gfx")
    if not real or not isinstance(real.value, tuple):
        return
    # Under an override, rocminfo and torch print the faked target: it says nothing of the card.
    cards = [gfx for gfx in real.value if gfx != faked]
    named = context.facts.get("gfx_by_name")
    if not cards and named and isinstance(named.value, tuple):
        cards = list(named.value)
    cards = cards or list(real.value)
    families = {family_of(gfx) for gfx in cards} - {None}
    if families - {family_of(faked)}:
        put(context, "override_crosses", True, f"{override.text} on {', '.join(cards)}", override.origin)
    elif faked in cards:
        put(context, "override_needless", True, f"{override.text} on {faked}", override.origin)
    elif families:
        put(context, "override_in_family", True, f"{override.text} on {', '.join(cards)}", override.origin)


def put_devices(context: Context) -> None:
    lists = {
        name: context.facts[f"env.{name}"]
        for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
        if f"env.{name}" in context.facts
    }
    if lists:
        put(context, "visible_set", True, next(iter(lists.values())).text, next(iter(lists.values())).origin)
    for name, fact in lists.items():
        if str(fact.value).strip() in ("", "-1", "NoDevFiles", "none"):
            put(context, "visible_hides_all", True, f"{name}={fact.value}", fact.origin)
    if "ROCR_VISIBLE_DEVICES" in lists and len(lists) > 1:
        put(
            context,
            "visible_clash",
            True,
            ", ".join(fact.text for fact in lists.values()),
            lists["ROCR_VISIBLE_DEVICES"].origin,
        )


def put_allocation(context: Context) -> None:
    asked, capacity = context.facts.get("asked_gib"), context.facts.get("capacity_gib")
    if not asked:
        return
    size = float(str(asked.value))
    if capacity and float(str(capacity.value)) > 0:
        put(context, "asked_share", size / float(str(capacity.value)), f"{asked.text} of {capacity.text}")


def put_place(context: Context) -> None:
    os_fact = context.facts.get("os")
    text = str(os_fact.value).lower() if os_fact else ""
    if "wsl" in text or "microsoft" in text:
        put(context, "wsl", True, os_fact.text if os_fact else "")
    if "wsl" in context.facts and context.facts["wsl"].value is True:
        context.facts.pop("windows", None)
        put(context, "place", "wsl", context.facts["wsl"].text, context.facts["wsl"].origin)
    elif "windows" in text:
        put(context, "place", "windows", os_fact.text if os_fact else "", os_fact.origin if os_fact else LOG)
    elif "windows" in context.facts and not re.search(r"linux|ubuntu|debian|fedora|arch|rhel|suse|centos|nixos", text):
        put(context, "place", "windows", context.facts["windows"].text)
    elif text:
        put(context, "place", "linux", os_fact.text if os_fact else "", os_fact.origin if os_fact else LOG)
