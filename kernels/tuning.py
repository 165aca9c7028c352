"""Searching for the fastest configuration on the GPU at hand, and keeping what was found.

FLASH_ATTENTION_TRITON_AMD_AUTOTUNE=TRUE makes the first call of each class of shapes try the candidates (`config.candidates`)
and keep the fastest; `fa-doctor tune` does the same on purpose. What is kept is used from then on, in this and every later
process, whether or not the variable is set. It is one JSON file for each GPU target, Triton version and state of the kernels'
source, in FA_DOCTOR_TUNING_DIR or below the user's cache folder: after an update the search begins anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import triton

from . import compat
from .config import Config, candidates, choose

__all__ = [
    "Progress", "autotune_wanted", "in_progress", "pick", "put_off", "searching", "shape_class", "state", "store_path",
]  # fmt: skip

SCHEMA = "fa-doctor/tuning/1"
_SOURCES = (
    "primitives.py", "forward.py", "quantized_forward.py", "decode.py", "decode_kernels.py",
    "backward.py", "backward_delta.py", "backward_dkdv.py", "backward_dq.py", "backward_scores.py",
)  # fmt: skip
_log = logging.getLogger(__name__)

# Called for each candidate: kernel kind, its number, how many there are, the candidate, milliseconds or why there are none.
Progress = Callable[[str, int, int, Config, "float | str"], None]
_forced: list[Progress] = []
_known: dict[Path, dict[str, Config]] = {}
_found = 0  # how many searches ended in this process


def autotune_wanted() -> bool:
    """Whether the user asked for a search (the variable that flash-attn's AMD kernels read, with the values it takes)."""
    return compat.variable("FLASH_ATTENTION_TRITON_AMD_AUTOTUNE").lower() in ("1", "true", "yes", "on")


def in_progress() -> bool:
    """Whether calls are being searched for on purpose (`searching`)."""
    return bool(_forced)


def state() -> tuple[bool, int]:
    """What `pick` answers by besides its arguments: as long as this stays equal, so do its answers."""
    return autotune_wanted(), _found


def put_off() -> bool:
    """Whether a search is wanted that cannot be made now: in a CUDA graph that is being recorded nothing can be timed."""
    return autotune_wanted() and _capturing()


def shape_class(
    kind: str, head_dim: int, dtype: torch.dtype, features: frozenset[str], lengths: tuple[int, int], programs: int
) -> str:
    """Shapes that share a configuration: lengths and the number of heads in the batch count by powers of two."""
    name = str(dtype).removeprefix("torch.")
    sizes = "x".join(str(max(1, n - 1).bit_length()) for n in (*lengths, programs))
    return "|".join((kind, str(head_dim), name, "+".join(sorted(features)) or "plain", sizes))


@functools.cache
def _source_hash() -> str:
    folder = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    for name in _SOURCES:
        with contextlib.suppress(OSError):
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def store_path(target: str) -> Path:
    """The file that holds what was found for a target."""
    folder = os.environ.get("FA_DOCTOR_TUNING_DIR")
    if not folder:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        folder = os.path.join(cache, "fa-doctor", "tuning")
    return Path(folder) / f"{target}-triton{triton.__version__}-{_source_hash()}.json"


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a store; a file that is damaged is passed over with a warning and replaced by the next search."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        warnings.warn(f"tuned configurations could not be read from {path}: {error.strerror}", stacklevel=2)
        return {}
    try:
        data = json.loads(text)
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']!r}")
        rows = data["rows"]
        for row in rows.values():
            Config.from_row(row)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(f"{path} is damaged ({error}); tuned configurations are not used", stacklevel=2)
        return {}
    assert isinstance(rows, dict)
    return rows


def _lookup(path: Path, key: str) -> Config | None:
    if path not in _known:
        _known[path] = {name: Config.from_row(row) for name, row in _read(path).items()}
    return _known[path].get(key)


def _keep(path: Path, key: str, config: Config, milliseconds: float) -> None:
    """Remembers a finding in this process and, where the folder lets itself be written, on disk."""
    global _found
    _known.setdefault(path, {})[key] = config
    _found += 1
    row = {**asdict(config), "milliseconds": milliseconds, "measured_on": _device_name(), "at": int(time.time())}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two processes that finish together must not lose each other's rows
            rows = _read(path)
            rows[key] = row
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps({"schema": SCHEMA, "rows": rows}, indent=1), encoding="utf-8")
            os.replace(temporary, path)
    except OSError as error:
        _log.info("tuned configuration not kept: %s: %s", path, error.strerror)


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


@contextlib.contextmanager
def searching(progress: Progress) -> Iterator[None]:
    """Inside of the with block every call searches, known or not, and says how it goes."""
    _forced.append(progress)
    try:
        yield
    finally:
        _forced.pop()


def pick(
    target: str,
    kind: str,
    head_dim: int,
    dtype: torch.dtype,
    features: frozenset[str],
    lengths: tuple[int, int],
    programs: int,
    launch: Callable[[Config], object],
) -> Config:
    """The configuration for a call: one that was found, else (where a search is wanted) the best, else the shipped one.

    launch: runs the kernel with a configuration, any number of times, with the same result. lengths: queries, keys;
    programs: batch times heads.
    """
    if compat.interpreting():
        return choose(target, kind, head_dim, dtype, features)
    path = store_path(target)
    key = shape_class(kind, head_dim, dtype, features, lengths, programs)
    if not _forced:
        found = _lookup(path, key)
        if found is not None:
            return found
    shipped = choose(target, kind, head_dim, dtype, features)
    if not (_forced or autotune_wanted()) or _capturing():
        return shipped
    best, milliseconds = _search(kind, [shipped, *candidates(target, kind, head_dim, dtype, shipped)], launch)
    if best is None:
        return shipped
    _keep(path, key, best, milliseconds)
    return best


def _capturing() -> bool:
    """Whether a CUDA graph is being recorded."""
    return bool(torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def _search(kind: str, configs: Sequence[Config], launch: Callable[[Config], object]) -> tuple[Config | None, float]:
    """The fastest of `configs` and its milliseconds; those that cannot run here are passed over."""
    bench = triton.runtime.driver.active.get_benchmarker()
    best: Config | None = None
    least = float("inf")
    for number, config in enumerate(configs):
        outcome: float | str
        try:
            launch(config)  # compiles
            outcome = float(bench(functools.partial(launch, config), quantiles=(0.5, 0.2, 0.8))[0])
        except Exception as error:  # noqa: BLE001 - too much local memory, a tile that the compiler refuses: not this one
            outcome = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if isinstance(outcome, float) and outcome < least:
            best, least = config, outcome
        _log.info("%s candidate %d of %d: %s: %s", kind, number + 1, len(configs), config, outcome)
        for progress in _forced:
            progress(kind, number, len(configs), config, outcome)
    return best, least
