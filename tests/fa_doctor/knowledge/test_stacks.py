"""The table of stacks: rows that cannot contradict each other, and a choice for every GPU that can have one."""

from __future__ import annotations

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from fa_doctor.knowledge import triton
from fa_doctor.knowledge.gpus import architectures, version_key
from fa_doctor.knowledge.stacks import (
    find_stack,
    gaps_of,
    recommendation_for,
    recommendations,
    stack_of_torch,
    stacks,
    targets_of_wheels,
)

NOTHING_FITS = {"gfx701", "gfx801", "gfx802", "gfx803", "gfx900", "gfx902", "gfx904", "gfx90c", "gfx1013", "gfx1250"}


def test_the_classic_stack_is_the_one_of_the_origin() -> None:
    found = find_stack("classic")
    assert found is not None
    stack, _ = found
    assert (stack.torch_pin, stack.triton, stack.triton_version) == ("2.6.0+rocm6.2.4", "pytorch-triton-rocm", "3.2.0")


def test_the_triton_distribution_changed_its_name_with_torch_2_10() -> None:
    for stack in stacks().values():
        if stack.index == "pytorch" and not stack.cpu:
            old = version_key(stack.torch) < (2, 10)
            assert stack.triton == ("pytorch-triton-rocm" if old else "triton-rocm"), stack.name
        assert stack.triton in triton.DISTRIBUTIONS


def test_every_gpu_stack_pins_a_local_version_and_names_its_index() -> None:
    for stack in stacks().values():
        Version(stack.torch_pin)
        if stack.cpu:
            assert stack.local == "cpu"
            assert not stack.archs
        else:
            assert stack.local == f"rocm{stack.rocm}"
            assert stack.url
            assert stack.url.startswith("https://")
            assert stack.archs
            assert stack_of_torch(stack.torch_pin) is stack


def test_recommendations_fit_their_gpus() -> None:
    for choice in recommendations().values():
        stack = stacks()[choice.stack]
        for gfx in choice.gfx:
            row = architectures()[gfx]
            override = choice.environment.get("HSA_OVERRIDE_GFX_VERSION")
            runs = row.override.runs_as if override and row.override and row.override.value == override else gfx
            assert runs in stack.archs, f"{choice.name}: {stack.name} has no code for {gfx}"
            assert not gaps_of(gfx, stack), f"{choice.name}: {gfx} is known not to work with {stack.name}"
        for alternative in choice.alternatives:
            assert find_stack(alternative), alternative


def test_every_gpu_with_a_wheel_that_works_has_a_recommendation() -> None:
    for gfx in architectures():
        assert (recommendation_for(gfx) is None) == (gfx in NOTHING_FITS), gfx


def test_the_targets_of_all_wheels_are_those_of_the_stacks() -> None:
    assert targets_of_wheels() == {gfx for stack in stacks().values() for gfx in stack.archs}


def test_torch_with_triton_3_9_is_never_recommended() -> None:
    # flash-attn 2.8.x fails at import with Triton 3.9.
    for choice in recommendations().values():
        assert version_key(stacks()[choice.stack].triton_version) < (3, 9)


def test_where_triton_looks_by_version() -> None:
    assert "env:HIP_PATH/lib" not in triton.search("hip_library", "3.2.0")
    assert "env-dir:HIP_PATH/lib" in triton.search("hip_library", "3.6.0")
    assert triton.search("linker", "3.2.0")[0] == "env:TRITON_HIP_LLD_PATH"
    assert triton.search("linker", "3.7.1") == ("in-process",)
    assert triton.search("hip_library", "2.1.0") == ()
    assert "setuptools at run time, without declaring it" in triton.needs("3.2.0")
    assert "3.13" in SpecifierSet(triton.python_range("3.4.0") or "==0")


def test_a_driver_names_the_releases_it_serves() -> None:
    driver = triton.driver_of("6.8.5")
    assert driver is not None
    assert (driver.rocm, driver.serves_rocm) == ("6.2", ("6.0", "6.1", "6.2", "6.3", "6.4"))
    newest = triton.driver_of("30.30.2")
    assert newest is not None
    assert newest.serves_rocm == ("6.3", "6.4", "7.0", "7.1", "7.2")
    assert triton.driver_of("6.99.1") is None
