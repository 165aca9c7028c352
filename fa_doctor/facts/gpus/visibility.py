"""Which devices the *_VISIBLE_DEVICES variables leave to a process, by the rules of the runtimes that read them.

ROCR_VISIBLE_DEVICES is applied first, by the HSA runtime (amd_filter_device.cpp); HIP then counts within what is left
(ROCclr rocdevice.cpp, Device::init) with HIP_VISIBLE_DEVICES or, where that is unset or empty, CUDA_VISIBLE_DEVICES.
Both stop at the first entry that is invalid: it and everything behind it is dropped. GPU_DEVICE_ORDINAL is read for
OpenCL only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["CUDA", "HIP", "ORDINAL", "ROCR", "Visibility", "apply_visibility", "select_hip", "select_rocr"]

ROCR, HIP, CUDA, ORDINAL = (
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
)


@dataclass(frozen=True, slots=True)
class Visibility:
    """`order`: indices of the devices as HIP numbers them afterwards; `hidden_by`: device index -> variable.

    `rejected` are the entries that ended a list, with their variable: nothing behind them counts.
    """

    order: tuple[int, ...]
    hidden_by: Mapping[int, str]
    rejected: tuple[tuple[str, str], ...] = ()


def apply_visibility(unique_ids: Sequence[str | None], environ: Mapping[str, str]) -> Visibility:
    """What the environment leaves of devices 0..n-1, whose unique ids (16 hexadecimal digits, None: has none) are given."""
    order = list(range(len(unique_ids)))
    hidden: dict[int, str] = {}
    rejected: list[tuple[str, str]] = []
    if ROCR in environ:
        chosen, refused = select_rocr(environ[ROCR], unique_ids)
        order = chosen
        hidden.update({index: ROCR for index in range(len(unique_ids)) if index not in chosen})
        if refused is not None:
            rejected.append((ROCR, refused))
    variable = next((name for name in (HIP, CUDA) if environ.get(name)), None)
    if variable is not None:
        places, refused = select_hip(environ[variable], [unique_ids[index] for index in order])
        kept = [order[place] for place in places]
        hidden.update({index: variable for index in order if index not in kept})
        order = kept
        if refused is not None:
            rejected.append((variable, refused))
    return Visibility(tuple(order), hidden, tuple(rejected))


def select_rocr(value: str, unique_ids: Sequence[str | None]) -> tuple[list[int], str | None]:
    """The devices that ROCR_VISIBLE_DEVICES leaves, in their new order, and the entry that ended the list early.

    Entries are trimmed and not case-sensitive; a number may be hexadecimal or octal; "GPU-" and the start of a unique
    id name the one device it fits. An entry named before ends the list. An empty value hides every device.
    """
    chosen: list[int] = []
    if not value:
        return chosen, None
    for entry in value.split(",")[: len(unique_ids)]:  # the runtime reads no more
        token = entry.strip().upper()
        index = _by_unique_id(token, unique_ids) if token.startswith("G") else _c_integer(token)
        if index is None or not 0 <= index < len(unique_ids) or index in chosen:
            return chosen, entry
        chosen.append(index)
    return chosen, None


def select_hip(value: str, unique_ids: Sequence[str | None]) -> tuple[list[int], str | None]:
    """The same for HIP_VISIBLE_DEVICES and CUDA_VISIBLE_DEVICES, whose rules are stricter.

    A number must be written plainly (no blank, no leading zero); "GPU-" and any part of a unique id names the first
    device that has it; a device named twice counts once.
    """
    chosen: list[int] = []
    entries = value.split(",")
    if entries[-1] == "":
        entries.pop()  # a comma at the end adds no entry
    for entry in entries:
        token = entry
        if "GPU-" in entry:
            part = entry[entry.index("GPU-") + 4 :].lower()
            matches = [i for i, unique_id in enumerate(unique_ids) if unique_id and unique_id.startswith(part)]
            token = str(matches[0]) if matches and entry.startswith("GPU-") else entry
        if not re.fullmatch(r"0|[1-9][0-9]{0,8}", token, re.ASCII) or int(token) >= len(unique_ids):
            return chosen, entry
        if int(token) not in chosen:
            chosen.append(int(token))
    return chosen, None


def _by_unique_id(token: str, unique_ids: Sequence[str | None]) -> int | None:
    if not 5 <= len(token) <= 20:
        return None
    matches = [i for i, known in enumerate(unique_ids) if known and f"GPU-{known.upper()}".startswith(token)]
    return matches[0] if len(matches) == 1 else None


def _c_integer(token: str) -> int | None:
    """An integer as strtol with base 0 reads it."""
    match = re.fullmatch(r"([+-]?)(0X[0-9A-F]{1,8}|0[0-7]{0,10}|[1-9][0-9]{0,9})", token, re.ASCII)
    if not match:
        return None
    digits = match[2]
    base = 16 if digits.startswith("0X") else 8 if digits.startswith("0") else 10
    number = int(digits, base)
    return -number if match[1] == "-" else number
