"""`fa-doctor fix` on staged machines in a real environment: repaired, journaled, undone; `check` before and after."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from healthy import mi300x, rx7900xtx, unbundle
from real_environment import (
    TORCH,
    TRITON,
    Stage,
    ask_python,
    attention,
    cuda_torch,
    rocm_torch,
    rocm_triton,
    states,
    two_tritons,
    versions,
    wheel_of,
    wheels,
)
from test_causes_rocm import library_path_before_torch

from fa_doctor.fixing.look import Look, Looker
from fa_doctor.installer.tree import manifest
from fa_doctor.level import Level

ENABLE, AUTOTUNE = "FLASH_ATTENTION_TRITON_AMD_ENABLE", "FLASH_ATTENTION_TRITON_AMD_AUTOTUNE"


def test_a_healthy_machine_has_nothing_to_fix(healthy: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert healthy.trouble() == set()
    assert healthy.fix("--yes") == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert not healthy.state.exists()


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_two_distributions_in_triton(stage: Stage, installer: str, capsys: pytest.CaptureFixture[str]) -> None:
    two_tritons(stage)
    assert stage.trouble() == {"TRI002"}
    before = manifest(stage.environment)
    assert stage.fix("--yes", "--installer", installer) == 0
    said = capsys.readouterr().out
    assert f"takes out pytorch-triton-rocm {TRITON}, triton 3.7.1" in said or "triton 3.7.1" in said
    assert "TRI002" in said
    assert stage.trouble() == set()
    assert versions(stage, "triton", "pytorch-triton-rocm", "torch", "mine") == [None, TRITON, TORCH, "1.0"]
    assert ask_python(stage, "import triton; print(triton.__version__)") == TRITON
    assert not (stage.environment / next(stage.environment.glob("lib/*/site-packages")) / "triton/new.py").exists()
    assert states(stage) == [("TRI002", "kept")]
    stage.index.close()  # the way back needs no network
    assert stage.fix("--undo", "--yes") == 0
    assert manifest(stage.environment) == before
    assert ask_python(stage, "import triton; print(triton.__version__)") == "3.7.1"
    assert stage.trouble() == {"TRI002"}
    assert states(stage) == [("TRI002", "undone")]


def test_a_cuda_torch_then_what_it_uncovers(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    cuda_torch(stage)
    del stage.environ[AUTOTUNE]
    assert "TOR101" in stage.trouble()
    assert "FAT005" not in stage.trouble()  # rests on the torch
    before = manifest(stage.environment)
    assert stage.fix("--yes") == 0
    said = capsys.readouterr().out
    assert "torch 2.9.1 -> 2.9.1+rocm6.4" in said
    assert 'eval "$(fa-doctor env)"' in said
    assert stage.trouble(stage.in_force) == set()
    assert stage.kept == {AUTOTUNE: "TRUE"}
    assert ask_python(stage, "import torch.version as v; print(v.hip is not None, v.cuda)") == "True None"
    assert states(stage) == [("TOR101", "kept"), ("FAT005", "kept")]
    # A file of the user's that came since stays when the fixes are taken back.
    (stage.environment / "notes.txt").write_text("mine\n")
    assert stage.fix("--undo", "--yes") == 0
    assert stage.kept == {}
    assert stage.fix("--undo", "--yes") == 0
    (stage.environment / "notes.txt").unlink()
    assert manifest(stage.environment) == before
    assert "TOR101" in stage.trouble()
    assert stage.fix("--undo", "--yes") == 2
    assert "no fix of" in capsys.readouterr().err


def test_an_unset_flag(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """The origin's second fix, and the flag that flash-attn 2.8 asks for at run time."""
    machine = mi300x(1)
    stage.put_machine(machine)
    upstream = wheels.Wheel(
        "flash-attn",
        "2.8.3",
        modules={
            "flash_attn/__init__.py": '__version__ = "2.8.3"\n',
            "flash_attn/flash_attn_interface.py": 'import os\nUSE_TRITON_ROCM = os.getenv("FLASH_ATTENTION_TRITON_AMD_'
            'ENABLE", "FALSE") == "TRUE"\nimport flash_attn_2_cuda as flash_attn_gpu\n',
        },
    )
    stage.put_packages(rocm_torch(machine), rocm_triton(machine), upstream, wheels.plain("einops", "0.8.1"))
    before = stage.trouble()
    stage.environ.pop(ENABLE)
    stage.environ.pop(AUTOTUNE)
    assert stage.trouble() - before == {"FAT003"}  # FAT005 rests on it
    assert stage.fix("FAT003", "FAT005", "--yes") == 0
    assert stage.kept == {ENABLE: "TRUE", AUTOTUNE: "TRUE"}
    assert stage.trouble(stage.in_force) == before
    assert stage.trouble() - before == {"FAT003"}  # this shell itself is as it was, and it says so
    assert 'eval "$(fa-doctor env)"' in capsys.readouterr().out
    assert stage.fix("FAT003", "FAT005", "--yes") == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert states(stage) == [("FAT003", "kept"), ("FAT005", "kept")]
    for left in ({ENABLE: "TRUE"}, {}):
        assert stage.fix("--undo", "--yes") == 0
        assert stage.kept == left
    assert stage.trouble(stage.in_force) - before == {"FAT003"}


def test_a_wrong_library_path(stage: Stage) -> None:
    """Another ROCm stands in it before what torch carries; the folder of the user's own stays in it."""
    machine = library_path_before_torch()
    stage.put_machine(machine)
    stage.put_packages(rocm_torch(machine), rocm_triton(machine), attention(machine))
    assert "LIB002" in stage.trouble()
    assert stage.fix("--yes") == 0
    assert stage.kept == {"LD_LIBRARY_PATH": "/usr/local/lib"}
    assert stage.trouble(stage.in_force) == set()
    assert stage.fix("--undo", "--yes") == 0
    assert stage.kept == {}
    assert "LIB002" in stage.trouble(stage.in_force)


def test_a_library_path_that_lacks_rocm(stage: Stage) -> None:
    """The origin's third fix, where it really is the cure: torch takes ROCm from the system, which nobody registered."""
    machine = mi300x(1)
    unbundle(machine)
    machine.files["/etc/ld.so.cache"] = b"glibc-ld.so.cache1.1" + bytes(28)
    stage.put_machine(machine)
    stage.put_packages(rocm_torch(machine), rocm_triton(machine), attention(machine))
    assert "LIB001" in stage.trouble()
    assert stage.fix("LIB001", "--yes") == 0
    assert stage.kept == {"LD_LIBRARY_PATH": "/opt/rocm/lib"}
    assert "LIB001" not in stage.trouble(stage.in_force)
    assert stage.fix("--undo", "--yes") == 0
    assert "LIB001" in stage.trouble(stage.in_force)


def test_what_the_shell_hands_on_is_told_and_left_alone(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    machine = library_path_before_torch()
    machine.environ["LD_LIBRARY_PATH"] = "/opt/rocm-7.1.0/lib/"
    stage.put_machine(machine)
    stage.put_packages(rocm_torch(machine), rocm_triton(machine), attention(machine))
    assert stage.fix("--yes") == 1
    said = capsys.readouterr().out
    assert "only there it can be unset" in said
    assert "unset LD_LIBRARY_PATH" in said
    assert stage.kept == {}
    assert states(stage) == []


def test_an_unwritable_cache(healthy: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """/proc can be written by nobody, root included."""
    healthy.environ["TRITON_CACHE_DIR"] = "/proc/triton-cache"
    assert "RES001" in healthy.trouble()
    assert healthy.fix("--yes", "RES001") == 0
    made = tmp_path / "tmp" / "triton-cache-root"
    assert healthy.kept == {"TRITON_CACHE_DIR": str(made)}
    assert made.is_dir()
    assert made.stat().st_mode & 0o777 == 0o700
    assert "RES001" not in healthy.trouble(healthy.in_force)
    capsys.readouterr()
    assert healthy.fix("--yes", "RES001") == 0  # although the shell still names the other one
    assert "Nothing to do" in capsys.readouterr().out
    assert healthy.fix("--undo", "--yes") == 0
    assert healthy.kept == {}
    assert not made.exists()
    assert "RES001" in healthy.trouble(healthy.in_force)


def test_a_dry_run_changes_nothing_and_json_tells_everything(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    two_tritons(stage)
    before = manifest(stage.environment.parent)
    assert stage.fix("--dry-run", "--format", "json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == "fa-doctor/fix/1"
    (planned,) = told["fixes"]
    assert (planned["check"], planned["state"], planned["number"]) == ("TRI002", "planned", None)
    assert any("triton 3.7.1" in line for line in planned["changes"])
    assert stage.fix("--dry-run") == 1
    assert "nothing was changed" in capsys.readouterr().out
    assert manifest(stage.environment.parent) == before
    assert stage.fix("--yes", "--format", "json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == "fixed"
    assert [(one["check"], one["state"], one["number"]) for one in told["fixes"]] == [("TRI002", "kept", 1)]
    assert told["left"] == []


def test_nobody_there_to_agree(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    two_tritons(stage)
    before = manifest(stage.environment)
    assert stage.fix() == 2
    assert "--yes" in capsys.readouterr().err
    assert manifest(stage.environment) == before
    assert states(stage) == []


def test_wrong_usage(healthy: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["NOPE1"], ["--unsafe"], ["--undo", "TRI002"], ["--undo", "--dry-run"], ["--level", "deep"]):
        assert healthy.fix(*arguments) == 2
    assert healthy.fix("--undo") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_unsafe_fix_is_applied_only_by_name(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """Another release of torch: what was built against the one that is there may break."""
    machine = mi300x(1)
    stage.put_machine(machine)
    stage.put_packages(wheels.torch("2.3.0", (), hip=None, cuda="12.1"), attention(machine))
    assert stage.fix("--yes") == 1
    said = capsys.readouterr().out
    assert "--unsafe" in said
    assert states(stage) == []
    other = rx7900xtx()
    stage.index.offer(
        "whl/rocm7.2", wheel_of(other, "torch", "2.13.0+rocm7.2", "torch", requires=("triton-rocm==3.7.1",))
    )
    stage.index.offer("whl/rocm7.2", wheel_of(other, "triton-rocm", "3.7.1", "triton"))
    stage.fix("TOR101", "--unsafe", "--yes")
    assert versions(stage, "torch", "triton-rocm") == ["2.13.0+rocm7.2", "3.7.1"]
    assert states(stage) == [("TOR101", "kept")]


def test_it_asks_and_takes_no_for_an_answer(healthy: Stage) -> None:
    """On a real terminal: no, then yes, then nothing but the end of the input."""
    del healthy.environ[AUTOTUNE]
    for answer, kept in (("n\n", {}), ("", {}), ("y\n", {AUTOTUNE: "TRUE"})):
        ours, theirs = os.openpty()
        process = healthy.start("never", stdin=theirs, start_new_session=True)
        os.write(ours, (answer or "\x04").encode())
        said = process.communicate(timeout=60)[0]
        os.close(ours)
        os.close(theirs)
        assert process.returncode == (0 if answer else 130), said
        assert "sets FLASH_ATTENTION_TRITON_AMD_AUTOTUNE=TRUE in " in said
        assert healthy.kept == kept


def test_fixes_for_root_are_printed_and_never_run(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """The third one: the variable is one cure, ldconfig the other; only the first is ever done."""
    machine = rx7900xtx()
    machine.devices["/dev/kfd"] = "crw------- root 0 237,0"
    machine.recording["openable"]["/dev/kfd"] = False
    stage.put_machine(machine)
    stage.put_packages(
        wheel_of(machine, "torch", "2.13.0+rocm7.2", "torch", requires=("triton-rocm==3.7.1",)),
        wheel_of(machine, "triton-rocm", "3.7.1", "triton"),
        attention(machine),
    )
    assert stage.trouble() != set()
    before = manifest(stage.environment)
    assert stage.fix("--yes") == 1
    assert "Left for you:" in capsys.readouterr().out
    assert manifest(stage.environment) == before
    assert states(stage) == []


def test_at_standard_the_kernels_are_run_before_and_after(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    """A fix that mends what it is for is kept, also where the smoke test fails before and after it for another reason."""
    machine = mi300x(1)
    stage.put_machine(machine)
    stage.put_packages(rocm_torch(machine), rocm_triton(machine), attention(machine))
    stage.environ.pop(AUTOTUNE)
    looks: list[tuple[Level, set[str]]] = []
    with mock.patch.object(Looker, "look", autospec=True, side_effect=_noting(looks)):
        code = stage.fix("FAT005", "--yes", "--level", "standard", "--format", "json")
    document = json.loads(capsys.readouterr().out)
    assert code == 0
    assert document["level"] == "standard"
    assert [(one["check"], one["state"]) for one in document["fixes"]] == [("FAT005", "kept")]
    assert [level for level, _ in looks] == [Level.STANDARD, Level.STANDARD]
    # The torch of the stage cannot compute: the smoke test was run, and says so both times.
    assert all("KER001" in troubled for _, troubled in looks)
    assert stage.kept == {AUTOTUNE: "TRUE"}


def _noting(looks: list[tuple[Level, set[str]]]) -> Callable[[Looker], Look]:
    look = Looker.look

    def noting(looker: Looker) -> Look:
        found = look(looker)
        looks.append((looker.level, {finding.id for finding in found.troubled}))
        return found

    return noting
