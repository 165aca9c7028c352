"""torch, Triton, flash_attn and companions, read from files: whole ones, cut ones, and those of this test run."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

import pytest
from healthy import install_flash_attn, mi300x, rx7900xtx, wsl
from staged_machine import Staged
from tiny_elf import tiny_elf

from fa_doctor.facts import packages, python
from fa_doctor.facts.distributions import owned_top_levels, parse_direct_url, parse_metadata, parse_pth, read_details
from fa_doctor.facts.package_files import build_of_label, build_of_libraries, parse_assignments, requirement_on
from fa_doctor.host import LiveHost


def gathered(machine: Staged, folder: Path) -> packages.Packages:
    host = machine.open(folder)
    return packages.gather(host, python.gather(host))


def test_what_is_installed_here_is_what_the_metadata_says() -> None:
    host = LiveHost()
    found = packages.gather(host, python.gather(host, sys.executable))
    assert found.torch is not None
    assert found.torch.version.partition("+")[0] == metadata.version("torch").partition("+")[0]
    assert found.torch.build in ("cpu", "cuda", "rocm")
    assert found.triton is not None
    assert found.triton.version == metadata.version("triton")
    assert [owner.name for owner in found.triton.owners] == ["triton"]
    assert found.triton.has_amd_backend is True


def test_the_three_healthy_stacks(tmp_path: Path) -> None:
    server = gathered(mi300x(), tmp_path / "a").torch
    assert server is not None
    assert (server.version, server.build, server.rocm, server.bundles_rocm) == ("2.9.1+rocm6.4", "rocm", "6.4", True)
    assert server.hip == "6.4.43482-0f2d60242"
    assert server.triton_wanted == "pytorch-triton-rocm==3.5.1"
    assert server.arch_list is not None
    assert "gfx942" in server.arch_list
    desktop = gathered(rx7900xtx(), tmp_path / "b").torch
    assert desktop is not None
    assert desktop.triton_wanted == "triton-rocm==3.7.1"
    under_wsl = gathered(wsl(), tmp_path / "c").torch
    assert under_wsl is not None
    assert under_wsl.rocm == "6.4.2"
    assert "libhsa-runtime64.so" not in under_wsl.bundled
    assert under_wsl.arch_source is not None
    assert under_wsl.arch_source.startswith("the kernel files in")


@pytest.mark.parametrize(
    ("text", "build"),
    [
        ("__version__ = '2.9.1+cu128'\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", "cuda"),
        ("__version__ = '2.9.1+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n", "cpu"),
        ("__version__ = '2.9.1+rocm6.4'\ncuda = None\nhip = '6.4.43482'\n", "rocm"),
        ("__version__ = '2.9.1+rocm6.4'\n", "rocm"),
        ("__version__ = '2.9.1'\n", None),
        ("__version__ = '2.9.1+rocm6.4'\nhip: Opt", "rocm"),
    ],
)
def test_the_build_of_torch(text: str, build: str | None, tmp_path: Path) -> None:
    machine = mi300x()
    machine.files[f"{machine.site}/torch/version.py"] = text
    found = gathered(machine, tmp_path).torch
    assert found is not None
    assert found.build == build


def test_device_packages_tell_the_targets_of_a_multi_arch_torch(tmp_path: Path) -> None:
    machine = rx7900xtx()
    machine.distribution("amd-torch-device-gfx1100", "2.14.0+rocm10.1.0")
    found = gathered(machine, tmp_path).torch
    assert found is not None
    assert found.arch_list == ("gfx1100",)


def test_every_owner_of_the_folder_is_found_by_what_it_owns_not_by_its_name(tmp_path: Path) -> None:
    machine = mi300x()
    machine.distribution("amd-triton", "3.6.0", owns={"triton/runtime/build.py": ""})
    machine.distribution("tritonclient", "2.60.0", owns={"tritonclient/__init__.py": ""})
    machine.distribution("my-triton-fork", "9.0", owns={"triton/fork.py": ""})
    found = gathered(machine, tmp_path).triton
    assert found is not None
    assert sorted(owner.name for owner in found.owners) == ["amd-triton", "my-triton-fork", "pytorch-triton-rocm"]


@pytest.mark.parametrize(
    ("version", "extension", "aiter", "kind", "needs_flag"),
    [
        ("2.8.3", None, False, "triton", True),
        ("2.8.4", None, True, "triton", False),
        ("2.8.3", ("libamdhip64.so.6",), False, "ck", True),
        ("2.8.3", ("libcudart.so.12",), False, "cuda", True),
        ("2.8.3", ("libc10.so",), False, None, True),
    ],
)
def test_how_flash_attn_was_built(
    version: str, extension: tuple[str, ...] | None, aiter: bool, kind: str | None, needs_flag: bool, tmp_path: Path
) -> None:
    machine = mi300x()
    install_flash_attn(machine, version, extension=extension, aiter=aiter)
    found = gathered(machine, tmp_path).flash_attention
    assert found is not None
    assert (found.version, found.kind, found.needs_flag, found.needs_aiter) == (version, kind, needs_flag, aiter)


def test_an_installation_in_place_is_followed_to_its_tree(tmp_path: Path) -> None:
    machine = mi300x()
    machine.remove_distribution("flash-attn", "flash_attn/")
    machine.distribution("flash-attn", "2.8.3")
    info = f"{machine.site}/flash_attn-2.8.3.dist-info"
    machine.files[f"{info}/direct_url.json"] = (
        '{"url": "file:///src/flash%20attention", "dir_info": {"editable": true}}'
    )
    machine.files["/src/flash attention/flash_attn/__init__.py"] = '__version__ = "2.8.3"\n'
    machine.files["/src/flash attention/flash_attn/flash_attn_interface.py"] = (
        'os.getenv("FLASH_ATTENTION_TRITON_AMD_ENABLE")\n'
    )
    found = gathered(machine, tmp_path).flash_attention
    assert found is not None
    assert found.folder == "/src/flash attention/flash_attn"
    assert found.kind == "triton"


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe" * 400, b"Name: torch", b"Name: torch\nVersion: 2.9.1+ro"])
def test_metadata_that_is_empty_binary_or_cut(content: bytes, tmp_path: Path) -> None:
    machine = mi300x()
    for path in list(machine.files):
        if path.endswith(("METADATA", "RECORD", "WHEEL", "__init__.py")):
            machine.files[path] = content
    found = gathered(machine, tmp_path)
    assert found.torch is not None
    assert found.torch.version == "2.9.1+rocm6.4"
    assert found.triton is not None
    assert [owner.name for owner in found.triton.owners] == ["pytorch-triton-rocm"]


def test_an_extension_that_is_cut_short(tmp_path: Path) -> None:
    machine = mi300x()
    install_flash_attn(machine, "2.8.3", extension=("libamdhip64.so.6",))
    path = next(path for path in machine.files if "flash_attn_2_cuda" in path)
    image = tiny_elf(None, ("libamdhip64.so.6",))
    machine.files[path] = image[:80]
    found = gathered(machine, tmp_path).flash_attention
    assert found is not None
    assert found.kind is None


def test_a_huge_record_is_read_within_its_limit(tmp_path: Path) -> None:
    machine = mi300x()
    path = f"{machine.site}/pytorch_triton_rocm-3.5.1.dist-info/RECORD"
    machine.files[path] = "triton/x.py,,\n" * 600_000
    found = gathered(machine, tmp_path).triton
    assert found is not None
    assert found.owners[0].owns == ("triton",)


def test_requirements() -> None:
    names = ("triton", "pytorch-triton-rocm")
    assert (
        requirement_on(("filelock", 'pytorch-triton-rocm==3.5.1; platform_system == "Linux"'), names)
        == "pytorch-triton-rocm==3.5.1"
    )
    assert requirement_on(("pytorch_triton_rocm (==3.2.0)",), names) == "pytorch_triton_rocm==3.2.0"
    assert requirement_on(("tritonclient>=2", 'triton>=3; extra == "fast"'), names) is None


def test_assignments() -> None:
    text = "__version__ = '2.9.1'\nhip: Optional[str] = None\ncuda: 'str | None' = \"12.8\"\n  hip = 'indented'\nx__version__ = 'no'\n"
    assert parse_assignments(text, "__version__", "hip", "cuda", "rocm") == {
        "__version__": "2.9.1",
        "hip": None,
        "cuda": "12.8",
    }


def test_labels_and_libraries() -> None:
    assert [build_of_label(label) for label in ("rocm6.4", "rocm7.2.4.lw.git3d3aa833", "cu128", "cpu", "")] == [
        "rocm",
        "rocm",
        "cuda",
        "cpu",
        None,
    ]
    assert build_of_libraries(("libc.so.6", "libamdhip64.so.6")) == "rocm"
    assert build_of_libraries(("libcudart.so.12",)) == "cuda"
    assert build_of_libraries(("libcudart.so.12", "libamdhip64.so")) is None


def test_small_parsers() -> None:
    assert parse_metadata("Name: a\nSummary: one\n two\n\nRequires-Dist: not a header\n") == {
        "name": ["a"],
        "summary": ["one two"],
    }
    assert owned_top_levels(
        'triton/__init__.py,sha,1\n"odd/x,y.py",,\n../../bin/tool,,\nx.dist-info/RECORD,,\nsix.py,,\n'
    ) == ("odd", "triton")
    assert parse_pth("# no\nimport x\n/a/b\nrelative\n\n") == ("/a/b", "relative")
    url = '{"url": "https://user:secret@host/x.whl", "archive_info": {}}'
    assert parse_direct_url(url) == ("https://host/x.whl", None)


def test_details_of_an_egg_info_file(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "old_thing-1.2-py3.12.egg-info").write_text("Metadata-Version: 1.1\nName: old-thing\nVersion: 1.2\n")
    from fa_doctor.facts.distributions import in_folder

    (bare,) = in_folder(LiveHost(), os.fspath(site))
    assert (bare.name, bare.version) == ("old-thing", "1.2")
    assert read_details(LiveHost(), bare).version == "1.2"
