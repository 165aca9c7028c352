"""The ROCm installations of staged machines, and the parsers of what names a release."""

from __future__ import annotations

from pathlib import Path

from healthy import mi300x, wsl
from hypothesis import given
from hypothesis import strategies as st
from staging import stage
from tiny_elf import tiny_elf

from fa_doctor.facts import gpus, packages, rocm
from fa_doctor.facts.packages import Torch
from fa_doctor.facts.python import Python
from fa_doctor.facts.python import gather as gather_python
from fa_doctor.facts.rocm import (
    RocmInstall,
    release_of_library_name,
    release_of_text,
    release_of_version_header,
)
from fa_doctor.host import open_recording

HIP = tiny_elf("libamdhip64.so.6", ("libc.so.6",))
HEADER = "#define HIP_VERSION_MAJOR {}\n#define HIP_VERSION_MINOR {}\n#define HIP_VERSION_PATCH 43482\n"


def installs(
    folder: Path,
    files: dict[str, str | bytes],
    links: dict[str, str] | None = None,
    python: Python | None = None,
    torch: Torch | None = None,
    environ: dict[str, str] | None = None,
) -> list[RocmInstall]:
    host = stage(folder, files, links=links, environ=environ)
    return list(rocm.gather(host, python or Python(None, None), torch) or ())


def test_a_server_has_a_tree_and_the_libraries_of_torch(tmp_path: Path) -> None:
    host = mi300x(1).open(tmp_path)
    python = gather_python(host)
    found = rocm.gather(host, python, packages.gather(host, python).torch)
    assert found is not None
    tree, bundled = found
    assert (tree.version, tree.path, tree.origin) == ("6.4.1", "/opt/rocm-6.4.1", "opt")
    assert tree.aliases == ("/opt/rocm",)
    assert tree.can_compile
    assert tree.has_runtime
    assert (bundled.version, bundled.origin) == ("6.4", "torch")
    assert bundled.holds(f"{bundled.path}/librocblas.so")
    assert not bundled.holds("/opt/rocm-6.4.1/lib/librocblas.so.4")


def test_the_layout_of_the_rocm_10_packages(tmp_path: Path) -> None:
    core = "/opt/rocm/core-10.0"
    files: dict[str, str | bytes] = {
        f"{core}/lib/libamdhip64.so.7": HIP,
        f"{core}/.info/version": "10.0.0\n",
        f"{core}/bin/hipcc": "an executable",
        f"{core}/include/hip/hip_version.h": HEADER.format(7, 15),
        f"{core}/include/hip/hip_runtime.h": "",
        f"{core}/lib/llvm/bin/ld.lld": "an executable",
    }
    links = {"/opt/rocm/lib": "core-10.0/lib", "/opt/rocm/bin": "core-10.0/bin"}
    (found,) = installs(tmp_path, files, links)
    assert (found.version, found.path, found.hip_version) == ("10.0.0", core, "7.15.43482")
    assert found.aliases == ("/opt/rocm",)
    assert found.linker == f"{core}/lib/llvm/bin/ld.lld"


def test_a_tree_without_tools_is_told(tmp_path: Path) -> None:
    (found,) = installs(tmp_path, {"/opt/rocm-7.0.2/lib/libamdhip64.so.7": HIP})
    assert found.version == "7.0.2"  # from the folder's name
    assert found.has_runtime
    assert not found.can_compile
    assert found.has_tools is False


def test_an_empty_folder_is_no_rocm(tmp_path: Path) -> None:
    assert installs(tmp_path, {"/opt/rocm/share/doc/README": "", "/opt/rocmate/bin/x": "", "/opt/other/a": ""}) == []


def test_two_trees_of_two_releases(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        f"/opt/rocm-{release}/.info/version": f"{release}-66\n" for release in ("6.2.4", "7.1.0")
    }
    found = installs(
        tmp_path, files, {"/opt/rocm": "/etc/alternatives/rocm", "/etc/alternatives/rocm": "/opt/rocm-7.1.0"}
    )
    assert {install.version: install.aliases for install in found} == {"6.2.4": (), "7.1.0": ("/opt/rocm",)}


def test_packages_of_the_distribution(tmp_path: Path) -> None:
    folder = "/usr/lib/x86_64-linux-gnu"
    files = {f"{folder}/libamdhip64.so.5.7.31921": HIP, "/usr/bin/hipcc": "an executable"}
    (debian,) = installs(tmp_path / "debian", files, {f"{folder}/libamdhip64.so.5": "libamdhip64.so.5.7.31921"})
    assert (debian.version, debian.path, debian.origin) == ("5.7", "/usr", "distribution")
    assert debian.holds(f"{folder}/libamdhip64.so.5.7.31921")
    files = {
        "/usr/lib64/libamdhip64.so.6.4.43483": HIP,
        "/usr/include/rocm-core/rocm_version.h": "#define ROCM_VERSION_MAJOR 6\n#define ROCM_VERSION_MINOR 4\n#define ROCM_VERSION_PATCH   2\n",
    }
    (fedora,) = installs(tmp_path / "fedora", files, {"/usr/lib64/libamdhip64.so.6": "libamdhip64.so.6.4.43483"})
    assert (fedora.version, fedora.library_folder) == ("6.4.2", "/usr/lib64")


def test_rocm_packages_of_the_target_python(tmp_path: Path) -> None:
    machine = mi300x(1)
    machine.remove_below("/opt/rocm")
    machine.links.clear()
    core = f"{machine.site}/_rocm_sdk_core"
    machine.files[f"{core}/lib/libamdhip64.so.7"] = HIP
    machine.files[f"{machine.site}/_rocm_sdk_devel/bin/hipcc"] = "an executable"
    machine.files[f"{machine.site}/_rocm_sdk_devel/include/hip/hip_runtime.h"] = ""
    machine.distribution("rocm-sdk-core", "7.14.1")
    host = machine.open(tmp_path)
    python = gather_python(host)
    (found,) = rocm.gather(host, python, None) or ()
    assert (found.version, found.path, found.origin) == ("7.14.1", core, "wheel")
    assert found.can_compile
    assert found.holds(f"{machine.site}/_rocm_sdk_libraries/lib/librocblas.so.5")


def test_a_tree_that_only_a_variable_names(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"/apps/rocm/6.2.0/.info/version": "6.2.0-66", "/usr/include/hip/hip_runtime.h": ""}
    (found,) = installs(tmp_path, files, environ={"ROCM_PATH": "/apps/rocm/6.2.0/", "HIP_PATH": "/usr"})
    assert (found.version, found.origin) == ("6.2.0", "variable")


def test_a_variable_that_points_into_a_known_tree_is_no_other_one(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "/opt/rocm-5.7.1/.info/version": "5.7.1-98",
        "/opt/rocm-5.7.1/hip/include/hip/hip_runtime.h": "",
    }
    (found,) = installs(tmp_path, files, {"/opt/rocm": "rocm-5.7.1"}, environ={"HIP_PATH": "/opt/rocm/hip"})
    assert found.version == "5.7.1"


def test_wsl_has_amd_packages(tmp_path: Path) -> None:
    host = wsl().open(tmp_path)
    found = rocm.gather(host, gather_python(host), None)
    assert [install.version for install in found or ()] == ["6.4.2"]


def test_what_is_not_recorded_is_not_known(shared: Path) -> None:
    unknown = rocm.gather(open_recording(str(shared / "machines/rx7800xt-drm")), Python(None, None), None)
    assert unknown is None


def test_the_releases_that_recorded_outputs_tell(shared: Path) -> None:
    import json

    told = 0
    for path in sorted((shared / "machines").glob("*/machine.json")):
        expected = json.loads(path.read_text())["expected"].get("rocm_version")
        host = open_recording(str(path.parent))
        found = rocm.gather(host, Python(None, None), None, gpus.gather(host).versions)
        if found:
            assert [install.version for install in found] == [expected]
            told += 1
    assert told >= 3


def test_forms_of_a_version() -> None:
    assert release_of_text("6.4.1-83\n") == "6.4.1"
    assert release_of_text("7.0.2.70002-56~22.04") == "7.0.2"
    assert release_of_text("no version") is None
    assert release_of_library_name("libamdhip64.so.6.4.60401") == "6.4.1"
    assert release_of_library_name("libhsa-runtime64.so.1.18.70002") == "7.0.2"
    assert release_of_library_name("libamdhip64.so.5.7.31921") is None
    assert release_of_version_header(HEADER.format(6, 4), "HIP") == "6.4.43482"
    assert release_of_version_header("#define ROCM_VERSION_MAJOR 6\n") is None


@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    for parse in (release_of_text, release_of_library_name, release_of_version_header):
        found = parse(text)
        assert found is None or found[0].isdigit()
