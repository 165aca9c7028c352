"""No text whatever makes a parser of the Python world raise, hang, or answer in another type than it promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fa_doctor.facts import cgroups, container, distributions, package_files, python, resources, system

PARSERS: list[Callable[[str], Any]] = [
    system.parse_os_release,
    system.parse_meminfo,
    system.glibcxx_of_file_name,
    container.engine_of_containerenv,
    container.runtime_of_cgroup,
    lambda text: container.status_field(text, "Seccomp"),
    cgroups.own_groups,
    cgroups.parse_memory_limit,
    cgroups.parse_cpu_max,
    lambda text: cgroups.parse_cpu_max(text, text),
    resources.parse_mounts,
    lambda text: resources.mount_of(resources.parse_mounts(text), "/home/user"),
    distributions.normalise,
    distributions.parse_metadata,
    distributions.parse_direct_url,
    distributions.owned_top_levels,
    distributions.parse_pth,
    python.parse_answer,
    python.parse_pyvenv_cfg,
    lambda text: package_files.parse_assignments(text, "__version__", "hip"),
    lambda text: package_files.requirement_on((text,), ("triton",)),
    lambda text: package_files.build_of_libraries((text,)),
    package_files.build_of_label,
]
FRAGMENTS = [
    "ID=ubuntu", 'PRETTY_NAME="', "MemTotal: 12 kB", "0::/", "Seccomp:\t2", "max", "100000 100000", "9" * 30, "engine=",
    "rootless=1", "Name: torch", "Requires-Dist: ", " continued", "fa-doctor:", '{"version": "3.12.3"}', "__version__ = '", "hip: Optional[str] = None",
    "triton==3.2.0; extra == 'x'", "rw,noexec", "\\040", "/dev/sda1 / ext4 rw 0 0", "import x", "=", ":", "\0", "\n", "\r", "٣", "libstdc++.so.6.0.", "[", "a" * 500,
]  # fmt: skip
TEXTS = st.one_of(st.text(max_size=300), st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join))


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: getattr(parser, "__name__", "parser"))
def test_any_text(parser: Callable[[str], Any]) -> None:
    @settings(max_examples=120, deadline=None)
    @given(TEXTS)
    def survives(text: str) -> None:
        parser(text)

    survives()


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_any_json_in_place_of_the_interpreters_answer(content: Any) -> None:
    answer = python.parse_answer(f"fa-doctor:{content!r}")
    assert answer is None or isinstance(answer.site_packages, tuple)
    distributions.parse_direct_url(json.dumps(content))


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z_]{0,10}", fullmatch=True), st.text("abc XYZ.1/$", max_size=20)))
def test_os_release_is_read_back(values: dict[str, str]) -> None:
    escaped = {name: value.replace("$", "\\$") for name, value in values.items()}
    text = "".join(f'{name}="{value}"\n' for name, value in escaped.items())
    assert system.parse_os_release(text) == values


@given(
    st.lists(st.tuples(st.from_regex(r"/[a-z ]{1,8}", fullmatch=True), st.sampled_from(["ext4", "nfs4"])), max_size=6)
)
def test_the_longest_mount_wins(mounts: list[tuple[str, str]]) -> None:
    text = "".join(f"dev {point.replace(' ', chr(92) + '040')} {kind} rw 0 0\n" for point, kind in mounts)
    parsed = resources.parse_mounts(text)
    assert [(mount.point, mount.filesystem) for mount in parsed] == mounts
    for point, _ in mounts:
        found = resources.mount_of(parsed, point + "/below")
        assert found is not None
        assert len(found.point) >= len(point)
