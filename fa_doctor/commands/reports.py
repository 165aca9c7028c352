"""Reports that were made before, or are made now of recorded machines: what `diff` and `fleet` are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fa_doctor.errors import UsageProblem
from fa_doctor.report.document import Document

__all__ = ["named_sources", "report_at"]

_ARCHIVES = (".tar", ".gz", ".tgz", ".xz", ".bz2")


def report_at(path: str) -> Document:
    """A report from its JSON file, or made now of a recorded machine (a folder or a tar). Raises UsageProblem."""
    from fa_doctor.report import document

    if Path(path).is_file() and not path.endswith(_ARCHIVES):
        return document.load(path)
    from fa_doctor.diagnosis.check import all_checks
    from fa_doctor.diagnosis.examine import examine
    from fa_doctor.host import open_recording
    from fa_doctor.level import Level

    machine, findings = examine(open_recording(path), all_checks(), Level.STANDARD, 60.0)
    return document.build(machine, findings, Level.STANDARD, 0.0)


def named_sources(paths: Sequence[str]) -> dict[str, str]:
    """Where each machine's report lies, by a name for the machine: the file's own, or its path where two would agree.

    A folder that is no recorded machine stands for the reports (*.json), archives and recorded machines in it. Raises
    UsageProblem for a path where nothing is, and for a folder that holds none of them.
    """
    sources = [source for path in paths for source in _sources(path)]
    stems = [_stem(source) for source in sources]
    return {stem if stems.count(stem) == 1 else source: source for stem, source in zip(stems, sources, strict=True)}


def _sources(path: str) -> Iterator[str]:
    from fa_doctor.host import is_recording

    place = Path(path)
    if not place.is_dir() or is_recording(place):
        if not place.exists():
            raise UsageProblem(f"there is nothing at {path}")
        yield path
        return
    inside = sorted(
        child
        for child in place.iterdir()
        if (child.is_dir() and is_recording(child)) or (child.is_file() and child.name.endswith((".json", *_ARCHIVES)))
    )
    if not inside:
        raise UsageProblem(f"{path} holds neither reports (*.json) nor recorded machines")
    yield from map(str, inside)


def _stem(path: str) -> str:
    name = Path(path).name
    while (suffix := Path(name).suffix) in (".json", *_ARCHIVES):
        name = name.removesuffix(suffix)
    return name
