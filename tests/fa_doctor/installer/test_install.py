"""Whole installs against the index on loopback: every recorded machine, new environments, and ones that are there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from conftest import Install, snapshot

from fa_doctor.installer.choose import choose
from fa_doctor.installer.destination import existing
from fa_doctor.installer.errors import Refused
from fa_doctor.installer.placing import put_back
from fa_doctor.installer.recover import roll_back
from fa_doctor.installer.situation import Device, Situation, from_targets

# What is right for each GPU, by hand: stack, attention, and the variables.
RIGHT = {
    "gfx906": ("torch2.9.1-rocm6.3", "none", {}),
    "gfx908": ("torch2.8.0-rocm6.4", "bundled", {}),
    "gfx90a": ("torch2.13.0-rocm7.2", "bundled", {}),
    "gfx942": ("torch2.13.0-rocm7.2", "bundled", {}),
    "gfx950": ("torch2.13.0-rocm7.2", "bundled", {}),
    "gfx1030": ("torch2.9.1-rocm6.3", "none", {}),
    "gfx1031": ("torch2.9.1-rocm6.3", "none", {"HSA_OVERRIDE_GFX_VERSION": "10.3.0"}),
    "gfx1100": ("torch2.13.0-rocm7.2", "bundled", {}),
    "gfx1101": ("torch2.13.0-rocm7.2", "bundled", {"TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL": "1"}),
    "gfx1102": ("torch2.13.0-rocm7.2", "bundled", {"TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL": "1"}),
    "gfx1103": ("torch2.13.0-rocm7.2", "bundled", {"TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL": "1"}),
    "gfx1150": ("torch2.13.0-rocm7.2", "bundled", {"TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL": "1"}),
    "gfx1151": ("torch2.13.0-rocm7.2", "bundled", {}),
    "gfx1201": ("torch2.13.0-rocm7.2", "bundled", {}),
}


# Where the recorded kernel driver is too old for the stack that the GPU alone would get.
LIMITED_BY_DRIVER = {
    "mi300x-x4-spx": "torch2.9.1-rocm6.3",
    "mi308x-x8-spx-rocminfo": "torch2.13.0-rocm7.1",
    "rx7900xtx-dkms": "torch2.9.1-rocm6.4",
    "rx9070xt-plus-igpu": "torch2.13.0-rocm7.1",
}


def machines(shared: Path) -> dict[str, Situation]:
    """The recorded machines that have an AMD GPU whose target is known, from their answer keys."""
    found = {}
    for file in sorted((shared / "machines").glob("*/machine.json")):
        expected = json.loads(file.read_text())["expected"]
        targets = expected.get("gfx_native") or expected.get("gfx")
        if not targets or not expected.get("amd_gpu_count") or expected.get("usable_for_current_rocm") is False:
            continue
        integrated = expected.get("apu") if isinstance(expected.get("apu"), list) else [False] * len(targets)
        kinds = {gfx: Device(gfx, None, bool(apu)) for gfx, apu in zip(targets, integrated, strict=False)}
        found[file.parent.name] = Situation(tuple(kinds.values()))
    return found


def test_every_recorded_machine_gets_the_stack_that_is_right_for_it(shared: Path) -> None:
    situations = machines(shared)
    assert len(situations) >= 18
    for name, situation in situations.items():
        choice = choose("auto", situation, ["3.11", "3.12"])
        stack, attention, variables = RIGHT[situation.targets[0]]
        assert choice.stack.name == stack, name
        assert choice.attention == attention, name
        assert {key: variable.value for key, variable in choice.variables.items()} == variables, name
        assert choice.reasons, name


def test_what_the_facts_say_of_a_recorded_machine_leads_to_the_same_choice(shared: Path) -> None:
    from fa_doctor.diagnosis.gather import gather
    from fa_doctor.host import open_recording
    from fa_doctor.installer.situation import from_machine
    from fa_doctor.level import Level

    for name, situation in machines(shared).items():
        found = from_machine(gather(open_recording(str(shared / "machines" / name)), level=Level.QUICK))
        assert found.targets == situation.targets, name
        wanted = LIMITED_BY_DRIVER.get(name) or choose("auto", situation).stack.name
        assert choose("auto", found).stack.name == wanted, name


def test_a_machine_without_an_amd_gpu_gets_the_cpu_stack_and_is_told_why(shared: Path) -> None:
    from fa_doctor.diagnosis.gather import gather
    from fa_doctor.host import open_recording
    from fa_doctor.installer.situation import from_machine
    from fa_doctor.level import Level

    for name in ("nvidia-rtx4080", "intel-igpu-only", "hd7870-radeon-driver", "wsl-rx7600-no-adapter"):
        situation = from_machine(gather(open_recording(str(shared / "machines" / name)), level=Level.QUICK))
        choice = choose("auto", situation)
        assert choice.stack.cpu, name
        assert situation.absent_because, name
        assert situation.absent_because in choice.reasons[0], name


def test_every_kind_of_recorded_gpu_installs(shared: Path, install: Install, tmp_path: Path) -> None:
    situations = {choose("auto", row).stack.name: row for row in machines(shared).values()}
    assert len(situations) >= 2
    for number, situation in enumerate(situations.values()):
        one = Install(install.server, install.base, install.tool, tmp_path / f"env{number}", situation)
        transaction = one.transaction()
        outcome = transaction.run()
        assert outcome.previous is None
        there = existing(one.environment)
        assert there is not None
        plan = transaction.plan
        assert there.installed["torch"].version == plan.torch
        assert plan.torch.endswith(f"+rocm{plan.hip}")
        assert ("flash-attn" in there.installed) == (plan.attention == "bundled")
    taken = [path for path, count in install.server.requests.items() if path.startswith("/files/torch-2.99") and count]
    assert taken == [], "the CUDA torch of the default index was asked for"


@pytest.mark.parametrize(
    ("stack", "gfx"), [("classic", "gfx90a"), ("krackan", "gfx1152"), ("torch2.10.0-rocm7.0", "gfx950")]
)
def test_named_stacks_install(stack: str, gfx: str, install: Install) -> None:
    install.stack, install.situation = stack, from_targets((gfx,))
    plan = install.plan()
    install.transaction().run()
    there = existing(install.environment)
    assert there is not None
    assert there.installed["torch"].version == plan.torch
    if stack == "classic":
        assert there.installed["pytorch-triton-rocm"].version == "3.2.0"
    if stack == "krackan":
        assert there.installed[f"amd-torch-device-{gfx}"].version == "2.14.0+rocm10.1.0"
        assert "amd-torch-device-gfx1153" not in there.installed
        assert there.installed["triton"].version == "3.8.0+rocm10.1.0"


def test_a_new_environment_works_at_its_final_path(install: Install) -> None:
    install.transaction().run()
    done = subprocess.run([install.environment / "bin/torchrun"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2.13.0+rocm7.2"
    for path in (install.environment / "bin").iterdir():
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 100_000:
            assert ".fa-doctor/stage" not in path.read_text(errors="replace"), path
    there = existing(install.environment)
    assert there is not None
    assert "numpy" in there.installed, "torch warns at every import without it"
    left = sorted(path.name for path in install.transaction().plan.paths.state.iterdir())
    assert left == ["journal.jsonl", "plan.toml"]


def test_a_cuda_torch_and_what_only_it_needed_gives_way(old: Install) -> None:
    plan = old.plan()
    gone = {entry.name: why for entry, why in plan.remove}
    assert set(gone) == {"torch", "triton", "nvidia-cublas-cu12"}
    outcome = old.transaction().run()
    there = existing(old.environment)
    assert there is not None
    assert there.installed["torch"].version == "2.13.0+rocm7.2"
    assert "triton" not in there.installed
    assert "numpy" not in there.installed, "an environment that is there gets what was asked for"
    assert there.installed["triton-rocm"].version == "3.7.1"
    assert there.installed["filelock"].version == "3.16.0", "what satisfies every requirement stays"
    assert there.installed["mine"].version == "1.0"
    assert (old.environment / "notes.txt").read_text() == "kept by hand\n"
    assert outcome.previous is not None


def test_rollback_brings_the_old_environment_back_file_for_file(old: Install) -> None:
    before = snapshot(old.environment)
    old.transaction().run()
    assert snapshot(old.environment) != before
    roll_back(old.transaction().plan.paths)
    assert snapshot(old.environment) == before
    assert subprocess.run([old.environment / "bin/python", "-c", "import mine"], check=False).returncode == 0


def test_rollback_of_a_new_environment_removes_it(install: Install) -> None:
    install.transaction().run()
    paths = install.plan().paths
    roll_back(paths)
    assert not install.environment.exists()
    assert not paths.wheels.exists()


def test_without_its_spare_the_environment_is_left_alone(old: Install) -> None:
    from fa_doctor.installer.errors import InstallFailed
    from fa_doctor.installer.journal import Journal
    from fa_doctor.installer.tree import remove

    old.transaction().run()
    paths = old.plan().paths
    remove(paths.previous)
    after = snapshot(old.environment)
    with pytest.raises(InstallFailed, match="no longer"):
        put_back(paths, Journal(paths.journal), existed=True)
    assert snapshot(old.environment) == after


def test_a_flash_attn_of_others_is_not_overwritten(old: Install) -> None:
    site = next(old.environment.glob("lib/python*/site-packages"))
    info = site / "flash_attn-2.8.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flash_attn\nVersion: 2.8.3\n")
    (info / "RECORD").write_text("")
    with pytest.raises(Refused, match="--replace"):
        old.plan()
    old.replace = True
    assert old.plan().kernels is not None
    old.replace, old.attention = False, "none"
    assert old.plan().kernels is None


def test_two_tritons_are_both_taken_out_first(old: Install) -> None:
    site = next(old.environment.glob("lib/python*/site-packages"))
    info = site / "triton_rocm-3.7.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: triton-rocm\nVersion: 3.7.1\n")
    (info / "RECORD").write_text("triton_rocm-3.7.1.dist-info/METADATA,,\n")
    plan = old.plan()
    assert {"triton", "triton-rocm"} <= {entry.name for entry, _ in plan.remove}
    assert "triton-rocm" in {package.name for package in plan.packages}
    old.transaction().run()
    there = existing(old.environment)
    assert there is not None
    assert (there.environment / "bin/python").exists()
    assert "triton" not in there.installed


def test_companions_that_are_there_are_taken_along(old: Install) -> None:
    site = next(old.environment.glob("lib/python*/site-packages"))
    info = site / "torchvision-0.21.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.21.0\n")
    (info / "RECORD").write_text("torchvision-0.21.0.dist-info/METADATA,,\n")
    versions = {package.name: package.version for package in old.plan().packages}
    assert versions["torchvision"] == "0.28.0+rocm7.2"
