"""Which tools are asked about GPUs.

A live machine is asked as little as possible: nothing where sysfs tells, rocminfo where only a runtime can tell (WSL),
and rocminfo (or amd-smi) under a deadline where a deeper look is wanted, since a GPU that is in sysfs while its tool
does not return is wedged. A recorded machine has what somebody kept, in whatever form.
"""

from __future__ import annotations

from fa_doctor.facts.gpus.tool_readings import ToolReadings, take_amd_smi, take_rocminfo
from fa_doctor.host import Host, Problem

__all__ = ["ask_tools"]

QUICK_DEADLINE_S = 2.5  # where sysfs cannot tell (WSL), at the level that promises an answer at once
DEADLINE_S = 10.0  # a healthy rocminfo takes well under a second, with 64 devices about three


def ask_tools(host: Host, *, needed: bool, deep: bool) -> ToolReadings:
    """Asks the tools. `needed`: sysfs shows no device and only a runtime can tell; `deep`: also prove that one answers."""
    found = ToolReadings()
    if host.recorded_names() or host.kind == "recorded":
        from fa_doctor.facts.gpus.recorded_outputs import read_recorded

        read_recorded(host, found)
    elif needed or deep:
        output = host.run(["rocminfo"], timeout_s=DEADLINE_S if deep else QUICK_DEADLINE_S)
        take_rocminfo(output, found)
        if deep and output.problem is Problem.ABSENT:
            take_amd_smi(host.run(["amd-smi", "list"], timeout_s=DEADLINE_S), found)
    return found
