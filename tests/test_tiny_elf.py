"""The generator of small ELF files agrees with the reader that the project uses."""

from __future__ import annotations

import io

from tiny_elf import tiny_elf

from fa_doctor.host.elf import read_dynamic


def test_everything_that_is_written_is_read_back() -> None:
    image = tiny_elf(
        "libx.so.1",
        ("liba.so", "libstdc++.so.6"),
        rpath="$ORIGIN",
        versions={"libstdc++.so.6": ("GLIBCXX_3.4.32", "CXXABI_1.3"), "libc.so.6": ("GLIBC_2.38",)},
    )
    found = read_dynamic(io.BytesIO(image))
    assert found.soname == "libx.so.1"
    assert found.needed == ("liba.so", "libstdc++.so.6")
    assert (found.rpath, found.runpath) == ("$ORIGIN", None)
    assert found.versions_needed == {
        "libstdc++.so.6": ("GLIBCXX_3.4.32", "CXXABI_1.3"),
        "libc.so.6": ("GLIBC_2.38",),
    }
    assert (found.machine, found.bits) == ("X86_64", 64)


def test_another_machine() -> None:
    assert read_dynamic(io.BytesIO(tiny_elf(machine=183))).machine == "AARCH64"
