"""`fa-doctor probe`: runs the attention kernels on the GPUs at hand and says whether they are right."""

from __future__ import annotations

import sys
import time

import click

from fa_doctor.commands.options import SECONDS, write_output
from fa_doctor.errors import UsageProblem
from fa_doctor.level import Level

__all__ = ["command"]


@click.command("probe")
@click.option("--python", metavar="EXE", help="The Python to probe (default: the active environment's).")
@click.option(
    "--device",
    metavar="N|cpu",
    help="Only this device; cpu: in Triton's interpreter, which proves nothing about a GPU (default: every GPU).",
)
@click.option("--speed", is_flag=True, help="Also time attention beside unfused PyTorch and SDPA.")
@click.option("--timeout", type=SECONDS, default=120.0, metavar="S", show_default=True)
@click.option("--format", "format_", type=click.Choice(["text", "json", "junit"]), default="text", show_default=True)
@click.option("--output", metavar="FILE", help="Where the report goes (default: standard output).")
@click.option("-v", "--verbose", is_flag=True, help="Show the largest errors and the seconds of each step.")
def command(
    python: str | None, device: str | None, speed: bool, timeout: float, format_: str, output: str | None, verbose: bool
) -> int:
    """Runs the attention kernels on every GPU and holds them against float64; also a flash_attn that is not ours.

    Exit status: 0 right on every GPU, 1 wrong or not running, 2 wrong usage, 3 no GPU, or no verdict could be reached.
    """
    import dataclasses

    from fa_doctor.diagnosis.check import all_checks
    from fa_doctor.diagnosis.engine import run_checks
    from fa_doctor.diagnosis.gather import gather
    from fa_doctor.diagnosis.selection import select
    from fa_doctor.host import LiveHost
    from fa_doctor.probe import gather as probing
    from fa_doctor.probe.points import speed_table
    from fa_doctor.report import document, formats, text
    from fa_doctor.report.table import print_table

    started = time.monotonic()
    deadline = started + timeout
    host = LiveHost()
    machine = gather(host, level=Level.QUICK, python=python, deadline=deadline)
    probing.python_with_torch(machine.python, machine.torch, "run the kernels")
    there = probing.probed_devices(host, machine.gpus, machine.torch)
    only: list[int | None] | None = None
    if device is not None:
        only = [_chosen(device, there)]
    elif there == [None] and not machine.gpus.known:
        only = there  # no GPU at all: interpreted, and said so
    probes = probing.gather(
        host, machine.python, machine.gpus, machine.torch, machine.flash_attention, deadline, speed=speed, only=only
    )
    machine = dataclasses.replace(machine, probes=probes)
    # Without the checks that these rest on: who asks for the probe wants its answer, whatever else is wrong.
    checks = [
        dataclasses.replace(check, rests_on=())
        for check in select(all_checks(), ["KER", "SPD101"] if speed else ["KER"], [])
    ]
    level = Level.FULL if speed else Level.STANDARD
    findings = run_checks(machine, checks, level, deadline + 5)
    proven = any(probe.on_gpu for probe in probes)
    report = document.build(machine, findings, level, time.monotonic() - started)
    if not proven and report["summary"]["status"] in ("pass", "warn"):
        report["summary"]["status"] = "unknown"  # nothing ran on a GPU: whatever the interpreter says is no verdict
    if format_ == "text" and output is None:
        text.write(report, sys.stdout, verbose=verbose, subject="probe of this machine", all_findings=True)
        if report["summary"]["status"] == "fail":
            sys.stdout.write("`fa-doctor check` looks at the rest of this machine: the fix often stands there.\n")
        for probe in probes:
            if table := speed_table(probe):
                sys.stdout.write("\n")
                print_table(sys.stdout, *table)
    else:
        write_output(formats.render(report, format_, verbose=verbose), output)
    return formats.exit_code(report)


def _chosen(word: str, devices: list[int | None]) -> int | None:
    if word == "cpu":
        return None
    if not word.isdecimal() or int(word) not in devices:
        there = ", ".join(str(device) for device in devices if device is not None) or "no GPU that torch could use"
        raise UsageProblem(f"--device {word}: there is {there}")
    return int(word)
