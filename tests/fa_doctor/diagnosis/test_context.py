"""Facts out of logs, of what users write, of reports and of the machine at hand; and what follows from them."""

from __future__ import annotations

from typing import Any

import pytest

from fa_doctor.diagnosis.conditions import holds, parse
from fa_doctor.diagnosis.context import LOG, Context, context_from_mapping, facts_from_text
from fa_doctor.diagnosis.derived import derive, gfx_of_override
from fa_doctor.diagnosis.machine_context import build_context, facts_of_report, machine_facts


def facts_of(text: str) -> dict[str, Any]:
    context = Context()
    facts_from_text(text, LOG, context)
    derive(context)
    return context.values()


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("PyTorch version: 2.8.0.dev20250529+rocm6.4", "torch", "2.8.0.dev20250529+rocm6.4"),
        ("torch==2.7.1 is here", "torch", "2.7.1"),
        ("Found existing installation: torch 2.4.1", "torch", "2.4.1"),
        ("Processing ./torch-2.2.0+rocm5.7-cp38-cp38-linux_x86_64.whl", "torch", "2.2.0+rocm5.7"),
        ("torch.__version__  = 2.7.0+rocm6.3", "torch_rocm", "6.3"),
        ("ROCM used to build PyTorch: 6.4.43482-0f2d60242", "torch_rocm", "6.4.43482"),
        ("/opt/rocm-6.4.1/lib/libamdhip64.so.6", "rocm", "6.4.1"),
        ("HIP version: 5.7.31921-1949b1621", "rocm", "5.7.31921"),
        ("pytorch-triton-rocm==3.1.0", "triton", "3.1.0"),
        ("/usr/lib/python3.12/site-packages/x", "python", "3.12"),
        ("torch-2.2.0-cp38-cp38-linux_x86_64.whl", "python", "3.8"),
        ("py -3.14 -m venv env", "python", "3.14"),
        ("Name: gfx90a:sramecc+:xnack-", "gfx", ("gfx90a",)),
        ("AMD Radeon RX 7900 XTX", "gfx", ("gfx1100",)),
        ("AMD Instinct MI308X", "gfx", ("gfx942",)),
        ("Radeon 8060S Graphics", "gfx_family", ("RDNA3.5",)),
        ("Linux-6.6.87.1-microsoft-standard-WSL2-x86_64", "wsl", True),
        ("C:\\AI\\venv\\Lib\\site-packages", "place", "windows"),
        ("HSA_OVERRIDE_GFX_VERSION=11.0.0 python infer.py", "env.HSA_OVERRIDE_GFX_VERSION", "11.0.0"),
        ("docker run -it rocm/pytorch", "container", "docker"),
        ("Tried to allocate 77.52 GiB. GPU 0 has a total capacity of 23.98 GiB", "asked_gib", "77.52"),
        ("NVIDIA GeForce RTX 4090", "vendor", "nvidia"),
        ("torch 2.6.0+cu124 /usr/local/cuda/bin", "vendor", "nvidia-software"),
        ("rocBLAS on gfx1100", "vendor", "amd"),
        ("No HIP GPUs are available", "vendor", "amd"),
    ],
)
def test_a_fact_is_read_from_a_log(text: str, name: str, value: object) -> None:
    assert facts_of(text).get(name) == value


@pytest.mark.parametrize(
    "text",
    [
        "ROCM used to build PyTorch: N/A",
        "MIOpen runtime version: N/A",
        "try setting PYTORCH_HIP_ALLOC_CONF=expandable_segments:True",
        "the theory of everything",
    ],
)
def test_what_says_nothing_gives_no_fact(text: str) -> None:
    facts = facts_of(text)
    assert "vendor" not in facts
    assert not [name for name in facts if name.startswith("env.")]


@pytest.mark.parametrize(
    ("value", "gfx"),
    [
        ("10.3.0", "gfx1030"),
        ("11.0.0", "gfx1100"),
        ("9.0.10", "gfx90a"),
        ("11.5.1", "gfx1151"),
        ("9.0.a", None),
        ("gfx1030", None),
    ],
)
def test_the_target_of_an_override(value: str, gfx: str | None) -> None:
    assert gfx_of_override(value) == gfx


@pytest.mark.parametrize(
    ("gpu", "override", "expected"),
    [
        ({"gfx": "gfx90a"}, "10.3.0", "override_crosses"),
        ({"gpu": "RX 9070 XT"}, "11.0.0", "override_crosses"),
        ({"gpu": "RX 6700 XT", "gfx": "gfx1030"}, "10.3.0", "override_in_family"),
        ({"gfx": "gfx1100"}, "11.0.0", "override_needless"),
        ({"gfx": "gfx90a (rocminfo reports gfx1030)"}, "10.3.0", "override_crosses"),
        ({"gfx": "gfx1100"}, "eleven", "override_malformed"),
    ],
)
def test_an_override_is_judged_by_the_family_of_the_card(gpu: dict[str, str], override: str, expected: str) -> None:
    context = context_from_mapping({**gpu, "env": {"HSA_OVERRIDE_GFX_VERSION": override}})
    derive(context)
    verdicts = {"override_crosses", "override_in_family", "override_needless", "override_malformed"}
    assert verdicts & set(context.facts) == {expected}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "1"}, {"visible_set", "visible_clash"}),
        ({"HIP_VISIBLE_DEVICES": "-1"}, {"visible_set", "visible_hides_all"}),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, {"visible_set"}),
        ({}, set()),
    ],
)
def test_visible_devices_that_hide_or_clash(variables: dict[str, str], expected: set[str]) -> None:
    context = context_from_mapping({"env": variables})
    derive(context)
    assert {name for name in context.facts if name.startswith("visible")} == expected


def test_given_facts_go_before_the_log_and_the_log_before_this_machine() -> None:
    context = context_from_mapping({"torch": "2.9.1+rocm6.4"})
    context.machine = context_from_mapping({"torch": "2.4.0+rocm6.1", "python": "3.10", "triton": "3.0.0"})
    facts_from_text("torch==2.7.1 python3.12", LOG, context)
    context.settle()
    assert context.values()["torch"] == "2.9.1+rocm6.4"
    assert context.values()["python"] == "3.12"
    assert context.values()["triton"] == "3.0.0"


def test_this_machine_says_nothing_of_a_log_that_names_another_gpu() -> None:
    for text, taken in [
        ("on gfx942 it fails", False),
        ("NVIDIA A100", False),
        ("on gfx1100 it fails", True),
        ("it fails", True),
    ]:
        context = Context(
            machine=context_from_mapping({"gfx": "gfx1100", "env": {"HSA_OVERRIDE_GFX_VERSION": "11.0.0"}})
        )
        facts_from_text(text, LOG, context)
        context.settle()
        assert ("env.HSA_OVERRIDE_GFX_VERSION" in context.facts) is taken, text


def test_a_report_gives_the_facts_that_it_holds_and_survives_what_is_missing() -> None:
    machine = {
        "gpus": [
            {"index": 0, "gfx": "gfx1100", "name": "Radeon RX 7900 XTX", "integrated": False},
            {"index": 1, "gfx": "gfx1036", "name": "Raphael", "integrated": True},
        ],
        "rocm": [{"version": "6.4.1", "path": "/opt/rocm", "origin": "system"}],
        "torch": {"version": "2.9.1+rocm6.4", "build": "rocm", "rocm": "6.4"},
        "triton": {
            "version": "3.5.1",
            "distributions": [{"name": "triton", "version": "3.5.1"}, {"name": "triton-rocm", "version": "3.5.0"}],
        },
        "python": {"version": "3.12.3"},
        "container": {"inside": True, "runtime": "podman", "rootless": True},
        "wsl": False,
        "os": {"pretty_name": "Fedora 42", "kernel": "6.14"},
        "environment": {"HIP_VISIBLE_DEVICES": "0"},
    }
    context = build_context({"machine": machine}, look=False)
    derive(context)
    facts = context.values()
    assert facts["gfx"] == ("gfx1100", "gfx1036")
    assert facts["integrated_beside_discrete"] is True
    assert facts["container"] == "rootless podman"
    assert facts["torch_build"] == "rocm"
    assert facts["env.HIP_VISIBLE_DEVICES"] == "0"
    assert "triton-rocm" in str(facts["triton_text"])
    for broken in (
        {},
        {"gpus": None},
        {"gpus": 3, "torch": [], "rocm": {}, "container": "x", "environment": [1], "os": None},
    ):
        build_context({"machine": broken}, look=False)
    assert not any(facts_of_report({}).values()) or facts_of_report({})["env"] == {}


def test_this_machine_is_read_without_fault() -> None:
    facts = machine_facts()
    assert isinstance(facts["env"], dict)
    build_context(None, look=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("torch_build == rocm", True),
        ("torch_build in cuda|cpu", False),
        ("not torch_build == cuda", True),
        ("torch version >=2.7,<2.9", True),
        ("python version <3.10", False),
        ("gfx in gfx1030|gfx1100", True),
        ("asked_share > 1", True),
        ("os ~ ubuntu|debian", True),
        ("wsl", False),
        ("not wsl", True),
        ("missing == x", False),
        ("not missing == x", False),
        ("torch_build == rocm and not wsl and asked_share > 1", True),
    ],
)
def test_conditions(text: str, expected: bool) -> None:
    facts = {
        "torch_build": "rocm",
        "torch": "2.8.0+rocm6.4",
        "python": "3.12",
        "gfx": ("gfx1100",),
        "asked_share": 3.2,
        "os": "Ubuntu 24.04",
    }
    assert holds(parse(text), facts) is expected


@pytest.mark.parametrize(
    ("text", "vendor"),
    [
        (
            "Automatically detected platform rocm\nAvg prompt throughput: 4070.3 tokens/s, Running: 3090 reqs, GPU usage",
            "amd",
        ),
        ("ROCm 7.0: 10.0.3.7:5090 - POST, works", "amd"),
        ("it fails on my 4090", "nvidia"),
        ("4090显卡 CUDA out of memory", "nvidia"),
        ("a 3080 Ti and torch 2.6", "nvidia"),
        ("Same on the Arc B580: every value is NaN", "intel"),
        ("Device: mps, Apple M2 Pro", "apple"),
        ("Intel(R) Core(TM) i7-13700K with a Radeon RX 7900 XTX", "amd"),
        ("CUDA error (/src/flash_fwd_launch_template.h:184): no kernel image is available", "nvidia-software"),
    ],
)
def test_a_number_is_a_card_only_where_the_words_around_say_so(text: str, vendor: str) -> None:
    context = Context()
    facts_from_text(text, "log", context)
    derive(context)
    assert context.facts["vendor"].value == vendor


def test_the_display_part_of_a_processor_beside_a_card_is_noticed() -> None:
    assert facts_of("Radeon RX 7900 XTX\nno code for GPU arch : gfx1036")["integrated_beside_discrete"] is True
    assert "integrated_beside_discrete" not in facts_of("GPU arch : gfx1036")
    assert "integrated_beside_discrete" not in facts_of("gfx1100 and gfx1151 are built")
