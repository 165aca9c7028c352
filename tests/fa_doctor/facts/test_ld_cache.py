"""/etc/ld.so.cache as real ldconfig writes it, and as no program would."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_objects import ElfMaker
from staging import stage

from fa_doctor.facts.ld_cache import CacheEntry, folders_of_ld_so_conf, parse_ld_cache
from fa_doctor.facts.linker_system import LinkerSystem, x86_64_level

LDCONFIG = shutil.which("ldconfig", path="/sbin:/usr/sbin:/bin:/usr/bin")

needs_ldconfig = pytest.mark.skipif(LDCONFIG is None or shutil.which("gcc") is None, reason="needs ldconfig and gcc")


def as_ldconfig_prints(*arguments: str) -> list[tuple[str, str]]:
    text = subprocess.run([LDCONFIG or "", "-p", *arguments], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^\t(\S+) \(.*\) => (.*)$", text, re.MULTILINE)


@needs_ldconfig
def test_the_cache_of_this_machine() -> None:
    entries = parse_ld_cache(Path("/etc/ld.so.cache").read_bytes())
    assert entries
    assert [(entry.name, entry.path) for entry in entries] == as_ldconfig_prints()


@needs_ldconfig
@pytest.mark.parametrize("form", ["old", "compat", "new"])
def test_every_format_that_ldconfig_writes(tmp_path: Path, form: str) -> None:
    make = ElfMaker(tmp_path / "make")
    for name in ("libhip.so.6", "libhip.so.7", "libhsa.so.1"):
        make.library(tmp_path / "rocm" / name, name)
    make.library(tmp_path / "rocm/glibc-hwcaps/x86-64-v3/libhsa.so.1", "libhsa.so.1")
    (tmp_path / "conf").write_text(f"{tmp_path}/rocm\n")
    command = [LDCONFIG or "", "-C", str(tmp_path / "cache"), "-f", str(tmp_path / "conf"), "-c", form]
    subprocess.run(command, check=True, capture_output=True)
    data = (tmp_path / "cache").read_bytes()
    entries = [entry for entry in parse_ld_cache(data) or () if str(tmp_path) in entry.path]
    assert {entry.name for entry in entries} == {"libhip.so.6", "libhip.so.7", "libhsa.so.1"}
    if form != "old":
        printed = [pair for pair in as_ldconfig_prints("-C", str(tmp_path / "cache")) if str(tmp_path) in pair[1]]
        assert [(entry.name, entry.path) for entry in entries] == printed
        assert [entry.hwcaps for entry in entries if "hwcaps" in entry.path] == ["x86-64-v3"]


@needs_ldconfig
def test_a_lookup_prefers_the_best_level_of_the_cpu(tmp_path: Path) -> None:
    make = ElfMaker(tmp_path / "make")
    make.library(tmp_path / "rocm/libhsa.so.1", "libhsa.so.1")
    for level in ("x86-64-v2", "x86-64-v3"):
        make.library(tmp_path / "rocm/glibc-hwcaps" / level / "libhsa.so.1", "libhsa.so.1")
    (tmp_path / "conf").write_text(f"{tmp_path}/rocm\n")
    command = [LDCONFIG or "", "-C", str(tmp_path / "cache"), "-f", str(tmp_path / "conf")]
    subprocess.run(command, check=True, capture_output=True)
    data = (tmp_path / "cache").read_bytes()
    v2 = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
    for flags, folder in (("fpu", ""), (v2, "glibc-hwcaps/x86-64-v2/")):
        files: dict[str, str | bytes] = {"/etc/ld.so.cache": data, "/proc/cpuinfo": f"flags\t\t: {flags}\n"}
        system = LinkerSystem(stage(tmp_path / flags, files))
        assert system.cached("libhsa.so.1", ("X86_64", 64)) == f"{tmp_path}/rocm/{folder}libhsa.so.1"
        assert system.cached("libhsa.so.1", ("AARCH64", 64)) is None


def test_without_a_readable_cache_the_configuration_is_the_guess(tmp_path: Path) -> None:
    library = ElfMaker(tmp_path / "make").library(tmp_path / "x/libhip.so.6.2", "libhip.so.6").read_bytes()
    files: dict[str, str | bytes] = {
        "/etc/ld.so.conf": "include /etc/ld.so.conf.d/*.conf\n",
        "/etc/ld.so.conf.d/rocm.conf": "# AMD\n/opt/rocm/lib\n",
        "/opt/rocm/lib/libhip.so.6.2": library,
    }
    problem = {"reads": {"/etc/ld.so.cache": "denied"}}
    system = LinkerSystem(stage(tmp_path / "denied", files, **problem, listings=LISTINGS))
    assert system.cached("libhip.so.6", None) == "/opt/rocm/lib/libhip.so.6.2"
    assert system.cache_source == "/etc/ld.so.conf"
    absent = LinkerSystem(stage(tmp_path / "absent", files, listings=LISTINGS))
    assert absent.cached("libhip.so.6", None) is None


LISTINGS = {"/etc/ld.so.conf.d": ["rocm.conf"], "/opt/rocm/lib": ["libhip.so.6.2"]}


@given(st.binary(max_size=300))
def test_any_bytes(noise: bytes) -> None:
    for head in (b"", b"glibc-ld.so.cache1.1", b"ld.so-1.7.0\0", b"glibc-ld.so.cache1.1" + struct.pack("=I", 3)):
        found = parse_ld_cache(head + noise)
        assert found is None or all(isinstance(entry, CacheEntry) for entry in found)


@given(st.data())
def test_a_broken_cache(data: st.DataObject) -> None:
    whole = bytearray(Path("/etc/ld.so.cache").read_bytes()[:4096])
    for _ in range(data.draw(st.integers(1, 12))):
        whole[data.draw(st.integers(20, len(whole) - 1))] = data.draw(st.integers(0, 255))
    parse_ld_cache(bytes(whole))


@given(st.text(max_size=200))
def test_any_configuration(text: str) -> None:
    folders, includes = folders_of_ld_so_conf(text)
    assert all(folder.startswith("/") for folder in folders)
    assert all(includes)
    x86_64_level(text)


def test_configuration_forms() -> None:
    text = "# note\n/opt/rocm/lib /opt/rocm/lib64,/x:/y/\ninclude a.conf b/*.conf\nhwcap 1 nosegneg\n/z=libc6 # end\n"
    folders = ("/opt/rocm/lib", "/opt/rocm/lib64", "/x", "/y", "/z")
    assert folders_of_ld_so_conf(text) == (folders, ("a.conf", "b/*.conf"))
