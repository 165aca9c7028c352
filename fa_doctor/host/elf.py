"""The dynamic section of an ELF file: all that the dynamic linker's search rules need to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["ElfDynamic", "NotElf", "read_dynamic"]


class NotElf(ValueError):
    """The file is not an ELF file, or is cut or broken."""


@dataclass(frozen=True, slots=True)
class ElfDynamic:
    """`rpath` and `runpath` are as they stand in the file ($ORIGIN not expanded); None where the tag is missing.

    `machine` is pyelftools' name of e_machine without the prefix ("X86_64"), `bits` 32 or 64. `versions_needed` maps
    a library's name to the symbol versions asked of it ({"libc.so.6": ("GLIBC_2.38",)}).
    """

    soname: str | None
    needed: tuple[str, ...]
    rpath: str | None
    runpath: str | None
    machine: str
    bits: int
    interpreter: str | None = None
    versions_needed: dict[str, tuple[str, ...]] | None = None


def read_dynamic(stream: BinaryIO) -> ElfDynamic:
    """Reads the dynamic section of an ELF file; raises NotElf for anything that is not a readable one."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerNeedSection

    try:
        elf = ELFFile(stream)
        soname = rpath = runpath = interpreter = None
        needed: list[str] = []
        for segment in elf.iter_segments():
            if segment.header.p_type == "PT_INTERP":
                interpreter = segment.get_interp_name()
            if not isinstance(segment, DynamicSegment):
                continue
            for tag in segment.iter_tags():
                match tag.entry.d_tag:
                    case "DT_NEEDED":
                        needed.append(tag.needed)
                    case "DT_SONAME":
                        soname = tag.soname
                    case "DT_RPATH":
                        rpath = tag.rpath
                    case "DT_RUNPATH":
                        runpath = tag.runpath
        versions: dict[str, tuple[str, ...]] = {}
        section = elf.get_section_by_name(".gnu.version_r")
        if isinstance(section, GNUVerNeedSection):
            for need, auxiliaries in section.iter_versions():
                versions[need.name] = tuple(auxiliary.name for auxiliary in auxiliaries)
        return ElfDynamic(
            soname=soname,
            needed=tuple(needed),
            rpath=rpath,
            runpath=runpath,
            machine=str(elf.header.e_machine).removeprefix("EM_"),
            bits=elf.elfclass,
            interpreter=interpreter,
            versions_needed=versions or None,
        )
    # pyelftools raises what its parsing meets: its own errors, and those of struct, int and str on a cut file.
    except (
        ELFError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
        OverflowError,
        AssertionError,
    ) as error:
        raise NotElf(str(error) or type(error).__name__) from error
