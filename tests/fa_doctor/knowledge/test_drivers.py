"""The tables of drivers, settings and lines of the kernel log."""

from __future__ import annotations

import re

import pytest

from fa_doctor.knowledge.drivers import driver_release, regressions, releases_beyond
from fa_doctor.knowledge.kernel_log import log_lines, meaning_of
from fa_doctor.knowledge.tables import load
from fa_doctor.knowledge.tuning import setting


def test_every_row_has_sources_and_tested_releases_in_order() -> None:
    table = load("drivers")
    for row in table["driver"]:
        release = driver_release(row["module"])
        assert release is not None
        assert release.sources
        assert list(release.tested) == sorted(release.tested, key=table["order"].index)
    assert all(row.sources for row in regressions())
    assert all(line.sources and line.kind in ("hang", "reset", "hardware", "start", "fault") for line in log_lines())
    for name in load("tuning")["setting"]:
        row = setting(name)
        assert row.sources
        assert row.families


def test_a_version_is_found_as_dkms_names_it_too() -> None:
    release = driver_release("6.8.5-2041575.24.04")
    assert release is not None
    assert release.package == "ROCm 6.2"
    assert driver_release("6.8.51") is None
    assert driver_release("5.0.0") is None


@pytest.mark.parametrize(
    ("rocm", "apart"),
    [("6.3.4", 0), ("6.0.2", 0), ("6.4", 1), ("7.2.1", 4), ("7.14.0", 5), ("10.0.0", 5), ("5.7.1", -1), ("5.6", -2), ("5.4.3", -4), ("5.2", None), ("x", None)],
)  # fmt: skip
def test_how_far_a_release_is_from_what_was_tested(rocm: str, apart: int | None) -> None:
    assert releases_beyond(("6.0", "6.1", "6.2", "6.3"), rocm) == apart


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("amdgpu 0000:03:00.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=1, emitted seq=3", "hang"),
        ("[drm:amdgpu_job_timedout [amdgpu]] *ERROR* ring comp_1.0.0 timeout", "hang"),
        ("amdgpu: MES failed to respond to msg=REMOVE_QUEUE", "hang"),
        ("amdgpu: qcm fence wait loop timeout expired", "hang"),
        ("amdgpu: The cp might be in an unrecoverable state due to an unsuccessful queues preemption", "hang"),
        ("amdgpu 0000:03:00.0: amdgpu: GPU reset begin!", "reset"),
        ("amdgpu 0000:03:00.0: amdgpu: GPU reset(2) succeeded!", "reset"),
        ("amdgpu 0000:c9:00.0: amdgpu: 3 uncorrectable hardware errors detected in umc block", "hardware"),
        ("kfd kfd: amdgpu: skipped device 1002:744c, PCI rejects atomics 730<0", "start"),
        ("amdgpu 0000:03:00.0: Direct firmware load for amdgpu/gc_12_0_1_pfp.bin failed with error -2", "start"),
        ("amdgpu 0000:03:00.0: amdgpu: Fatal error during GPU init", "start"),
        ("amdgpu 0000:03:00.0: amdgpu: [gfxhub] page fault (src_id:0 ring:24 vmid:8)", "fault"),
        ("amdgpu 0000:03:00.0: amdgpu: SMU is initialized successfully!", None),
        ("kfd kfd: amdgpu: added device 1002:744c", None),
        ("misc dxg: dxgk: dxgkio_is_feature_enabled: Ioctl failed: -22", None),
    ],
)
def test_lines_of_the_kernel_log(line: str, kind: str | None) -> None:
    found = meaning_of(line)
    assert (found.kind if found else None) == kind


def test_patterns_are_not_slow() -> None:
    for line in log_lines():
        assert not re.search(r"\)[+*]\)?[+*]", line.pattern.pattern)
    meaning_of("amdgpu " + "RAS " * 100_000)
