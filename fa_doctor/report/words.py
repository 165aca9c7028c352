"""What a report says to a person whatever its form: the machine in short, the verdict, what to type next."""

from __future__ import annotations

from collections import Counter

from fa_doctor.report.document import Document

__all__ = ["counted", "fix_notes", "is_bare", "next_steps", "not_measured", "overview", "undecided", "verdict"]


def overview(machine: Document) -> list[tuple[str, str]]:
    """The machine in a few lines, each with its label; a label that is empty goes on with the one before it."""
    rows: list[tuple[str, str]] = []
    kinds = Counter(_describe(gpu) for gpu in machine["gpus"])
    for description, count in kinds.items():
        rows.append(("GPU", f"{count} x {description}" if count > 1 else description))
    if machine["gpus"] and machine["gpu_cards"] not in (None, len(machine["gpus"])):
        rows.append(("", f"{machine['gpu_cards']} cards, {len(machine['gpus'])} compute devices"))
    for other in machine["other_gpus"]:
        name = f"{other['name']}: " if other["name"] and other["name"] not in other["why"] else ""
        rows.append(("GPU" if not rows else "", f"{name}{other['why']}"))
    if not rows:
        rows.append(("GPU", "none" if machine["gpu_cards"] == 0 else "not known"))
    driver = machine["driver"]
    if driver["loaded"]:
        rows.append(("driver", " ".join(part for part in ("amdgpu", driver["origin"], driver["version"]) if part)))
    system = machine["os"]
    where = [system.get("pretty_name"), system.get("kernel") and f"kernel {system['kernel']}"]
    where.append("WSL2" if machine["wsl"] else None)
    container = machine["container"]
    where.append(f"in a container ({container['runtime'] or 'kind unknown'})" if container["inside"] else None)
    rows.append(("system", ", ".join(part for part in where if part) or "not known"))
    if machine["rocm"]:
        rows.append(("ROCm", ", ".join(f"{one['version'] or '?'} ({one['path']})" for one in machine["rocm"])))
    python = machine["python"]
    if python["executable"]:
        rows.append(("python", f"{python['version'] or '?'} ({python['executable']})"))
        packages = [
            ("torch", machine["torch"]),
            ("triton", machine["triton"]),
            ("flash_attn", machine["flash_attn"]),
        ]
        named = (f"{name} {found['version'] if found else 'missing'}" for name, found in packages)
        rows.append(("packages", ", ".join(named) if python["version"] else "not known"))
    return rows


def _describe(gpu: Document) -> str:
    facts = [gpu["gfx"] or "gfx target unknown"]
    if gpu["gfx_in_force"] and gpu["gfx_in_force"] != gpu["gfx"]:
        facts.append(f"overridden to {gpu['gfx_in_force']}")
    if gpu["compute_units"]:
        facts.append(f"{gpu['compute_units']} CU")
    if gpu["vram_bytes"]:
        size = gpu["vram_bytes"]
        facts.append(f"{size / (1 << 30):.0f} GiB" if size >= 1 << 30 else f"{size >> 20} MiB")
    if gpu["partition"]:
        facts.append("/".join(part for part in (gpu["partition"], gpu["memory_partition"]) if part))
    if gpu["integrated"]:
        facts.append("integrated")
    if gpu["visible"] is False:
        facts.append(f"hidden by {gpu['hidden_by']}" if gpu["hidden_by"] else "hidden")
    return f"{gpu['name'] or 'AMD GPU'} ({', '.join(facts)})"


def is_bare(finding: Document) -> bool:
    """Whether a finding says that something is not known, and nothing besides."""
    return finding["status"] == "unknown" and not (finding["detail"] or finding["evidence"] or finding["fixes"])


def undecided(findings: list[Document]) -> dict[str, list[str]]:
    """What could not be decided, with the ids of all checks that each reason stopped."""
    reasons: dict[str, list[str]] = {}
    for finding in findings:
        ids = reasons.setdefault(finding["title"], [])
        if finding["id"] not in ids:
            ids.append(finding["id"])
    return reasons


def fix_notes(fix: Document) -> str:
    """What applying a fix asks for besides being typed, in brackets, or nothing."""
    needs = {"root": "as root", "restart": "takes effect in a new session or container", "reboot": "then reboot"}
    notes = [needs.get(fix["needs"] or "", ""), "automatic: fa-doctor fix" if fix["automatic"] else ""]
    said = "; ".join(note for note in notes if note)
    return f" ({said})" if said else ""


def verdict(summary: Document) -> str:
    """The verdict in words. Where much could not be seen, that nothing wrong was seen is not called health."""
    if summary["unknown"] > 3 and summary["status"] in ("pass", "warn"):
        return "No failure found, but not all could be seen:"
    return {
        "pass": "Healthy:",
        "warn": "Works, with warnings:",
        "fail": "Not healthy:",
        "unknown": "Could not be decided:",
    }[summary["status"]]


def counted(summary: Document) -> str:
    """How many findings there are of each kind."""
    names = {"fail": "failed", "warn": "warned", "unknown": "unknown", "pass": "passed", "skip": "skipped"}
    return (
        ", ".join(f"{summary[status]} {name}" for status, name in names.items() if summary[status]) or "nothing checked"
    )


_MEASUREMENTS = {"KER001": "Not proven on a GPU", "SPD101": "Speed not measured"}


def not_measured(document: Document) -> list[str]:
    """What a check of this level would have measured and did not: "healthy" must not be read as if it had."""
    found = {finding["id"]: finding for finding in document["findings"] if finding["id"] in _MEASUREMENTS}
    if any(finding["status"] == "pass" for finding in found.values() if finding["id"] == "KER001"):
        found.pop("KER001")
    return [
        f"{words}: {found[check]['title']} ({check})."
        for check, words in _MEASUREMENTS.items()
        if check in found and found[check]["status"] == "skip"
    ]


def next_steps(document: Document) -> list[str]:
    """What to type next."""
    live = [finding for finding in document["findings"] if finding["ignored"] is None]
    lines = []
    if any(fix["automatic"] for finding in live for fix in finding["fixes"]):
        lines.append("`fa-doctor fix` applies the automatic fixes; it asks first, and can undo.")
    failed = [finding for finding in live if finding["status"] == "fail"]
    # No GPU to work with is a verdict, not a fault that anybody could mend.
    unexplained = [finding for finding in failed if not finding["fixes"] and not finding["id"].startswith("GPU0")]
    if unexplained:
        tracker = _tracker(unexplained[0]["cause"])
        lines.append(
            f"No fix is known for {unexplained[0]['id']}. To report it{f' to {tracker}' if tracker else ''}: "
            "`fa-doctor snapshot DIR` records this machine, secrets removed."
        )
    worst = next(
        (finding for status in ("fail", "warn", "unknown") for finding in live if finding["status"] == status), None
    )
    if worst:
        lines.append(f"`fa-doctor checks {worst['id']}` explains {worst['id']}; -v shows all that was read.")
    return lines


def _tracker(cause: str | None) -> str | None:
    """Whose tracker a cause belongs to, where it is anybody's."""
    from fa_doctor.knowledge import tables

    rows = tables.load("causes")["cause"] if cause else ()
    tracker = next((str(row["tracker"]) for row in rows if row["id"] == cause), "")
    return None if tracker.startswith("nobody") else tracker or None
