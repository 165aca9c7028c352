"""The reader of dynamic sections against pyelftools, on this machine's libraries, and on files that are cut or broken."""

from __future__ import annotations

import contextlib
import io
import subprocess
from pathlib import Path
from typing import BinaryIO

import pytest
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from hypothesis import given, settings
from hypothesis import strategies as st

from fa_doctor.host.elf import ElfDynamic, NotElf, read_dynamic

LIBRARIES = sorted(
    path
    for folder in ("/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/bin")
    for path in Path(folder).glob("*")
    if path.is_file() and path.stat().st_size < 8 << 20
)


def by_pyelftools(stream: BinaryIO) -> ElfDynamic:
    elf = ELFFile(stream)
    found: dict[str, list[str]] = {"needed": [], "soname": [], "rpath": [], "runpath": []}
    interpreter = None
    no_default = False
    for segment in elf.iter_segments():
        if segment.header.p_type == "PT_INTERP":
            interpreter = segment.get_interp_name()
        if isinstance(segment, DynamicSegment):
            for tag in segment.iter_tags():
                for name, values in found.items():
                    if tag.entry.d_tag == f"DT_{name.upper()}":
                        values.append(getattr(tag, name))
                if tag.entry.d_tag == "DT_FLAGS_1":
                    no_default = bool(tag.entry.d_val & 0x800)
    section = elf.get_section_by_name(".gnu.version_r")
    versions = (
        {need.name: tuple(part.name for part in parts) for need, parts in section.iter_versions()}
        if isinstance(section, GNUVerNeedSection)
        else None
    )
    return ElfDynamic(
        soname=next(iter(found["soname"]), None),
        needed=tuple(found["needed"]),
        rpath=next(iter(found["rpath"]), None),
        runpath=next(iter(found["runpath"]), None),
        machine=str(elf.header.e_machine).removeprefix("EM_"),
        bits=elf.elfclass,
        interpreter=interpreter,
        versions_needed=versions or None,
        no_default_folders=no_default,
    )


def test_agrees_with_pyelftools_on_the_files_of_this_machine() -> None:
    compared = 0
    for path in LIBRARIES[:: max(1, len(LIBRARIES) // 120)]:
        with path.open("rb") as stream:
            if stream.read(4) != b"\x7fELF":
                continue
            assert read_dynamic(stream) == by_pyelftools(stream), path
            compared += 1
    assert compared > 30


@pytest.fixture(scope="module")
def thirty_two_bit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 32-bit object: what a compiler without 32-bit libraries can still make."""
    folder = tmp_path_factory.mktemp("elf32")
    (folder / "a.c").write_text("int answer(void) { return 42; }\n")
    command = [
        "gcc",
        "-m32",
        "-shared",
        "-fPIC",
        "-nostdlib",
        "-Wl,-soname,liba.so.1",
        "-Wl,-rpath,/x",
        "a.c",
        "-o",
        "a",
    ]
    if subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode:
        pytest.skip("this compiler cannot make 32-bit libraries")
    return folder / "a"


def test_reads_32_bit_libraries(thirty_two_bit: Path) -> None:
    with thirty_two_bit.open("rb") as stream:
        found = read_dynamic(stream)
        assert found == by_pyelftools(stream)
    assert (found.bits, found.machine, found.soname) == (32, "386", "liba.so.1")


@pytest.fixture(scope="module")
def a_library() -> bytes:
    return next(path for path in LIBRARIES if path.name.startswith("libm.so")).read_bytes()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_broken_file_is_said_to_be_one(a_library: bytes, data: st.DataObject) -> None:
    head = bytearray(a_library[: data.draw(st.integers(0, len(a_library)))])
    for _ in range(data.draw(st.integers(0, 8))):
        if head:
            head[data.draw(st.integers(0, min(len(head), 4096) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(NotElf):
        assert isinstance(read_dynamic(io.BytesIO(bytes(head))), ElfDynamic)


@given(st.binary(max_size=512))
def test_no_bytes_do_more_than_fail(noise: bytes) -> None:
    for content in (noise, b"\x7fELF\x02\x01\x01" + noise, b"\x7fELF\x01\x02\x01" + noise):
        with contextlib.suppress(NotElf):
            read_dynamic(io.BytesIO(content))
