"""Which torch is right where there is more than one GPU, or one of another maker."""

from __future__ import annotations

import dataclasses

import pytest
from healthy import rx7900xtx

from fa_doctor.diagnosis.check import all_checks
from fa_doctor.diagnosis.engine import run_checks
from fa_doctor.diagnosis.gather import gather
from fa_doctor.diagnosis.model import Finding, Status
from fa_doctor.facts.gpus import Gpu, Gpus, OtherGpu
from fa_doctor.facts.loaded import Loaded
from fa_doctor.facts.machine import Machine
from fa_doctor.facts.packages import Torch
from fa_doctor.level import Level

NVIDIA = OtherGpu("NVIDIA", "GeForce RTX 4080", "0000:01:00.0", "nvidia", "not an AMD GPU")
IGPU = Gpu(1, gfx="gfx1036", integrated=True, visible=True)
CARD = Gpu(0, gfx="gfx1201", integrated=False, visible=True)


@pytest.fixture(scope="module")
def desktop(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return gather(rx7900xtx().open(tmp_path_factory.mktemp("desktop")), level=Level.QUICK)


def judged(machine: Machine, id: str) -> Finding:
    """The finding of one check, all others left out (what it rests on included)."""
    (check,) = [found for found in all_checks() if found.id == id]
    (finding,) = run_checks(machine, [check], Level.QUICK)
    return finding


def with_gpus(machine: Machine, devices: tuple[Gpu, ...] | None, *others: OtherGpu) -> Machine:
    return dataclasses.replace(machine, gpus=Gpus(devices, None if devices is None else len(devices), others))


def with_torch(machine: Machine, build: str | None, version: str = "2.9.1") -> Machine:
    return dataclasses.replace(machine, torch=Torch(version, "/site/torch", build))


def test_a_cuda_torch_beside_an_nvidia_card_and_an_igpu_is_right(desktop: Machine) -> None:
    machine = with_gpus(with_torch(desktop, "cuda"), (IGPU,), NVIDIA)
    assert judged(machine, "TOR101").status is Status.SKIP


def test_a_cuda_torch_beside_an_nvidia_and_an_amd_card_is_a_choice(desktop: Machine) -> None:
    machine = with_gpus(with_torch(desktop, "cuda"), (CARD,), NVIDIA)
    assert judged(machine, "TOR101").status is Status.WARN


def test_a_cpu_torch_beside_both_is_wrong(desktop: Machine) -> None:
    machine = with_gpus(with_torch(desktop, "cpu"), (CARD,), NVIDIA)
    assert judged(machine, "TOR101").status is Status.FAIL


@pytest.mark.parametrize("id", ["TOR002", "TOR003", "TOR101", "TOR102", "FAT005", "FAT009"])
def test_without_an_amd_gpu_torch_is_nobodys_business(id: str, desktop: Machine) -> None:
    machine = with_gpus(with_torch(desktop, "cuda"), (), NVIDIA)
    assert judged(machine, id).status in (Status.SKIP, Status.PASS)


def test_a_build_that_cannot_be_told_is_unknown(desktop: Machine) -> None:
    assert judged(with_torch(desktop, None), "TOR101").status is Status.UNKNOWN


def test_the_integrated_gpu_beside_a_card_needs_no_code(desktop: Machine) -> None:
    assert judged(with_gpus(desktop, (CARD, IGPU)), "TOR102").status is Status.PASS
    alone = judged(with_gpus(desktop, (dataclasses.replace(IGPU, index=0),)), "TOR102")
    assert alone.status is Status.FAIL
    wheel = desktop.torch
    assert wheel is not None
    older = dataclasses.replace(desktop, torch=dataclasses.replace(wheel, version="2.9.1+rocm6.4"))
    alone = judged(with_gpus(older, (dataclasses.replace(IGPU, index=0),)), "TOR102")
    assert alone.verdict.fixes[0].commands == ("export HSA_OVERRIDE_GFX_VERSION=10.3.0",)
    assert not alone.verdict.fixes[0].automatic


def test_what_torch_says_when_it_is_imported_goes_before_what_files_tell(desktop: Machine) -> None:
    said = Loaded("ended", arch_list=("gfx803", "gfx1201"))
    machine = dataclasses.replace(with_gpus(desktop, (Gpu(0, gfx="gfx803"),)), loaded=said)
    finding = judged(machine, "TOR102")
    assert finding.status is Status.PASS
    assert finding.verdict.evidence[0].source == "torch.cuda.get_arch_list()"


def test_an_override_counts_as_what_the_runtime_reports(desktop: Machine) -> None:
    overridden = Gpu(0, gfx="gfx1031", gfx_in_force="gfx1030", visible=True)
    assert judged(with_gpus(desktop, (overridden,)), "TOR102").status is Status.PASS


def test_a_gpu_of_no_known_target_is_unknown(desktop: Machine) -> None:
    assert judged(with_gpus(desktop, (Gpu(0),)), "TOR102").status is Status.UNKNOWN


def test_every_card_is_judged_once_for_each_target(desktop: Machine) -> None:
    cards = tuple(
        dataclasses.replace(CARD, index=number, gfx=gfx) for number, gfx in enumerate(("gfx1201", "gfx1201", "gfx803"))
    )
    (check,) = [found for found in all_checks() if found.id == "TOR102"]
    findings = run_checks(with_gpus(desktop, cards), [check], Level.QUICK)
    assert [finding.status for finding in findings] == [Status.PASS, Status.FAIL]
    assert findings[1].verdict.fixes == ()  # no wheel serves both, and none serves gfx803
