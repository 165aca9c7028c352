"""`fa-doctor explain` as a command: formats, context, standard input, exit codes, speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

FAULT = "Memory access fault by GPU node-1 (Agent handle: 0x55) on address 0x7f. Reason: Page not present.\n"
NO_GPU = "  torch._C._cuda_init()\nRuntimeError: No HIP GPUs are available\n"


def run(*arguments: str, text: str | bytes = b"", **more: Any) -> subprocess.CompletedProcess[bytes]:
    data = text.encode() if isinstance(text, str) else text
    command = [sys.executable, "-m", "fa_doctor", "explain", *arguments]
    return subprocess.run(command, input=data, capture_output=True, timeout=60, check=False, **more)


def diagnoses(*arguments: str, text: str | bytes = b"") -> dict[str, Any]:
    done = run("--no-machine", "--format", "json", *arguments, text=text)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["schema"] == "fa-doctor/diagnosis/1"
    return document


def test_json_has_the_fields_of_the_contract() -> None:
    document = diagnoses(text=FAULT)
    first = document["diagnoses"][0]
    assert first["cause"] == "gpu-memory-fault"
    assert 0.5 <= first["confidence"] <= 1
    assert first["evidence"][0] == {"line": 1, "text": FAULT.strip()}
    assert first["title"]
    assert first["explanation"]
    for fix in first["fixes"]:
        assert set(fix) >= {"title", "commands", "automatic", "undo", "needs"}
    scores = [each["confidence"] for each in document["diagnoses"]]
    assert scores == sorted(scores, reverse=True)


def test_the_same_words_mean_another_cause_with_another_environment(tmp_path: Path) -> None:
    context = tmp_path / "context.json"
    for facts, cause in [
        ({"gpu": "MI300X", "env": {"ROCR_VISIBLE_DEVICES": "2", "HIP_VISIBLE_DEVICES": "2"}}, "visible-devices-misuse"),
        ({"gpu": "MI300X", "container": "docker"}, "container-devices-missing"),
        ({"gpu": "RX 7900 XTX", "wsl": True, "os": "WSL2 Ubuntu"}, "wsl-specific"),
    ]:
        context.write_text(json.dumps(facts))
        assert diagnoses("--context", str(context), text=NO_GPU)["diagnoses"][0]["cause"] == cause


def test_what_is_not_decided_is_said_with_the_command_that_decides() -> None:
    document = diagnoses(text=NO_GPU)
    assert document["diagnoses"][0]["confidence"] < 0.5
    assert "/dev/kfd" in document["next"]["run"]
    done = run("--no-machine", text=NO_GPU)
    assert b"Not decided" in done.stdout
    assert b"/dev/kfd" in done.stdout


def test_an_override_across_families_explains_the_fault(tmp_path: Path) -> None:
    context = tmp_path / "context.json"
    context.write_text(json.dumps({"gfx": "gfx90a", "env": {"HSA_OVERRIDE_GFX_VERSION": "10.3.0"}}))
    first = diagnoses("--context", str(context), text=FAULT)["diagnoses"][0]
    assert first["cause"] == "hsa-override-wrong"
    assert any("HSA_OVERRIDE_GFX_VERSION=10.3.0" in each["text"] for each in first["evidence"])
    assert "unset HSA_OVERRIDE_GFX_VERSION" in first["fixes"][0]["commands"]


def test_a_giant_allocation_in_sdpa_is_the_unfused_path_and_not_a_lack_of_memory() -> None:
    text = (
        "  return torch.nn.functional.scaled_dot_product_attention(q, k, v)\n"
        "torch.OutOfMemoryError: HIP out of memory. Tried to allocate {} GiB. GPU 0 has a total capacity of 23.98 GiB\n"
    )
    assert diagnoses(text=text.format("96.00"))["diagnoses"][0]["cause"] == "slow-fallback"
    small = diagnoses(text="HIP out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.98 GiB\n")
    assert small["diagnoses"][0]["cause"] == "vram-out-of-memory"


def test_a_report_is_a_context(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    machine = {
        "gpus": [{"index": 0, "gfx": "gfx90a", "name": "AMD Instinct MI210", "integrated": False}],
        "rocm": [{"version": "6.4.1", "path": "/opt/rocm", "origin": "system"}],
        "torch": {"version": "2.8.0+rocm6.4", "hip": "6.4.43482"},
        "container": {"kind": "docker"},
        "wsl": False,
        "os": {"name": "Ubuntu", "version": "24.04"},
        "environment": {"HSA_OVERRIDE_GFX_VERSION": "10.3.0"},
    }
    report.write_text(json.dumps({"schema": "fa-doctor/report/1", "machine": machine, "findings": []}))
    document = diagnoses("--context", str(report), text=FAULT)
    assert document["diagnoses"][0]["cause"] == "hsa-override-wrong"
    assert document["facts"]["gfx"]["value"] == ["gfx90a"]


def test_a_file_and_standard_input_are_the_same(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text(FAULT)
    assert diagnoses(str(log)) == diagnoses("-", text=FAULT) == diagnoses(text=FAULT)


@pytest.mark.parametrize(
    "arguments", [("missing.txt",), ("--context", "missing.json"), (".",), ("--output", "no/such/dir/x")]
)
def test_what_cannot_be_read_or_written_is_a_usage_error(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = run(*arguments, text=FAULT, cwd=tmp_path)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"cannot" in done.stderr


def test_a_context_that_is_no_json_or_no_object_is_a_usage_error(tmp_path: Path) -> None:
    context = tmp_path / "context.json"
    for content in ("{", "[1, 2]"):
        context.write_text(content)
        done = run("--context", str(context), text=FAULT)
        assert done.returncode == 2
        assert b"context.json" in done.stderr


def test_nothing_known_is_exit_0_and_said() -> None:
    done = run("--no-machine", text="all is well\n")
    assert done.returncode == 0
    assert b"Nothing in this text" in done.stdout


def test_a_terminal_that_knows_only_ascii_gets_its_text() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = run("--no-machine", text=FAULT + "…\n", env=environment)
    assert done.returncode == 0
    done.stdout.decode("ascii")


def test_no_escapes_in_a_pipe() -> None:
    assert b"\x1b" not in run("--no-machine", text=FAULT).stdout


def test_a_case_takes_a_fraction_of_a_second() -> None:
    """The limit is generous, for busy machines; benchmarks/explain_speed.py measures."""
    started = time.process_time(), time.perf_counter()
    run("--no-machine", text=FAULT)
    assert time.perf_counter() - started[1] < 5
    code = "import resource, sys; from fa_doctor.cli import run; run(['explain', '--no-machine']); print(resource.getrusage(resource.RUSAGE_SELF).ru_utime, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], input=FAULT.encode(), capture_output=True, timeout=60, check=True
    )
    assert float(done.stderr.split()[-1]) < 0.6


def test_rich_and_requests_are_not_imported() -> None:
    code = "import sys; from fa_doctor.cli import run; run(['explain', '--no-machine']); print([m for m in ('rich', 'requests', 'torch') if m in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], input=FAULT.encode(), capture_output=True, timeout=60, check=True
    )
    assert done.stderr.split()[-1] == b"[]"


def test_a_large_build_log_is_read_with_bounded_memory(tmp_path: Path) -> None:
    """20 MB here; benchmarks/explain_speed.py measures 200 MB."""
    log = tmp_path / "build.log"
    includes = " ".join(f"-I/opt/python/lib/torch/include/part{number}" for number in range(30))
    with log.open("w") as file:
        for step in range(14_000):
            file.write(
                f"[{step}/14000] /opt/rocm/bin/hipcc {includes} -O3 -c build/fmha_{step}.hip -o build/fmha_{step}.o\n"
            )
        file.write(
            "x.hip:234:26: error: invalid operand for instruction\n1 error generated when compiling for gfx1100.\n"
        )
    code = (
        # VmHWM, not ru_maxrss: that one begins with what the process that started this one had used.
        "import sys; from fa_doctor.cli import run; run(['explain', '--no-machine', '--format', 'json', sys.argv[1]]);"
        "status = open('/proc/self/status').read();"
        "print(status.split('VmHWM:')[1].split()[0], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(log)], capture_output=True, timeout=100, check=True)
    first = json.loads(done.stdout)["diagnoses"][0]
    assert first["cause"] == "build-hip-compile-error"
    assert {each["line"] for each in first["evidence"]} >= {14_001, 14_002}
    assert int(done.stderr.split()[-1]) < 150 * 1024
