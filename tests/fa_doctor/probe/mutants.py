"""Wrong kernels, and a program that puts each to the smoke test: `python mutants.py` prints what rejects each, as JSON.

Every mutant is a copy of the kernels in which one text is replaced. It runs in Triton's interpreter, so TRITON_INTERPRET=1
must be set before Python starts.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

KERNELS = Path(__file__).resolve().parents[3] / "kernels"

# what is wrong: (file, what stands there, what stands there instead)
MUTANTS: dict[str, tuple[str, str, str]] = {
    "wrong scale": ("forward.py", "qk * scale_log2 - new_max", "qk * (scale_log2 * 1.02) - new_max"),
    "wrong scale of biased scores": ("primitives.py", "s = qk * scale_log2\n", "s = qk * (scale_log2 * 1.02)\n"),
    "no mask": ("forward.py", 'qk = tl.where(seen, qk, float("-inf"))', "qk = tl.where(seen, qk, qk)"),
    "window one too far right": ("primitives.py", "cols < tl.minimum(rows + (shift + right + 1), col_end)", "cols < tl.minimum(rows + (shift + right + 2), col_end)"),
    "window one too short on the left": ("primitives.py", "(cols >= rows + (shift - left))", "(cols > rows + (shift - left))"),
    "diagonal in the top left corner": ("primitives.py", "cols < tl.minimum(rows + (shift + right + 1), col_end)", "cols < tl.minimum(rows + (right + 1), col_end)"),
    "one key too many at the end": ("primitives.py", "seen = cols < col_end", "seen = cols <= col_end"),
    "one key too many at the end of a window": ("primitives.py", "cols < tl.minimum(rows + (shift + right + 1), col_end)", "cols < tl.minimum(rows + (shift + right + 1), col_end + 1)"),
    "last block of keys dropped": ("primitives.py", "last_row + shift + right + 1", "last_row + shift + right - BLOCK_N"),
    "softcap ignored": ("primitives.py", "s = tanh(qk * (scale_log2 * LN2 / softcap), EXACT) * (softcap * LOG2E)", "s = qk * scale_log2"),
    "ALiBi with the wrong sign": ("primitives.py", "s -= slope", "s += slope"),
    "ALiBi from the top left corner": ("primitives.py", "tl.abs(rows + shift - cols)", "tl.abs(rows - cols)"),
    "stale accumulator": ("forward.py", "v, acc * alpha[:, None], EXACT", "v, acc, EXACT"),
    "stale row sum": ("forward.py", "row_sum = row_sum * alpha +", "row_sum = row_sum +"),
    "heads of another group": ("forward.py", "head_k = head64 // group", "head_k = (head64 + 1) // group"),
    "dropout not scaled": ("forward.py", "scale = scale * keep_scale", "scale = scale * 1.0"),
    "dropped probabilities not normalised by all": ("forward.py", "p = tl.where(keep, p, 0.0)", "row_sum = tl.where(keep, p, 0.0).sum(1) + 0 * row_sum; p = tl.where(keep, p, 0.0)"),
    "delta dropped": ("backward_dq.py", "p, dp, delta[:, None], s", "p, dp, 0.0, s"),
    "delta dropped for the keys": ("backward_dkdv.py", "p, dp, delta[None, :], s", "p, dp, 0.0, s"),
    "softcap without its slope": ("backward_scores.py", "ds = ds * (1.0 - t * t)", "ds = ds * 1.0"),
    "no mask in the gradient of q": ("backward_dq.py", "p = tl.where(seen, p, 0.0)", "p = tl.where(seen, p, p)"),
    "no mask in the gradients of k and v": ("backward_dkdv.py", "p = tl.where(seen, p, 0.0)", "p = tl.where(seen, p, p)"),
    "dropout not in the gradient of q": ("backward_dq.py", "dp = tl.where(keep, dp * keep_scale, 0.0)", "dp = dp * 1.0"),
    "dropout not in the gradients of k and v": ("backward_dkdv.py", "dp = tl.where(keep, dp * keep_scale, 0.0)", "dp = dp * 1.0"),
    "appended one token too early": ("append.py", "o_position = tl.load(CACHE_SEQLENS + batch) + o_token", "o_position = tl.load(CACHE_SEQLENS + batch) + o_token - 1"),
    "decoding with a stale sum": ("decode_kernels.py", "row_sum = row_sum * alpha +", "row_sum = row_sum +"),
}  # fmt: skip


def load(name: str, folder: Path) -> ModuleType:
    """A folder as a package of its own."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@functools.cache
def trial_calls() -> dict[str, Callable[[Any, Any], object]]:
    """The trials of smoke.run by name. Inputs and references are the same for every mutant, and made once."""
    import torch

    from fa_doctor.probe.child import trials

    dense = [trials.DenseTrial(torch, case, 11) for case in trials.cases(False)]
    calls: dict[str, Callable[[Any, Any], object]] = {}
    for number, trial in enumerate(dense):
        calls[f"forward {number}"] = trial.forward
    calls["varlen"] = trials.VarlenTrial(torch, 11, False).forward
    calls["decode"] = trials.DecodeTrial(torch, 11, False).forward
    for number, trial in enumerate(dense):
        calls[f"backward {number}"] = lambda kernels, device, trial=trial: (
            trial.forward(kernels, device),
            trial.backward(device),
        )
    calls["origin"] = trials.OriginTrial(torch, 11, False).forward_and_backward
    return calls


def verdict(number: int, mutant: tuple[str, str, str] | None) -> str:
    """What the smoke test says of a mutant (or of the kernels as they are): "" if it finds nothing wrong."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "kernels"
        shutil.copytree(KERNELS, copy, ignore=shutil.ignore_patterns("__pycache__"))
        likely = ""
        if mutant is not None:
            file, text, replacement = mutant
            source = (copy / file).read_text()
            (copy / file).write_text(source.replace(text, replacement))
            likely = {"backward": "backward", "decode": "decode"}.get(file.split("_")[0], "")
        kernels = load(f"mutant_{number}", copy)
        try:
            # Those that are likely to find it first.
            for name in sorted(trial_calls(), key=lambda name: not name.startswith(likely)):
                trial_calls()[name](kernels, torch.device("cpu"))
        except AssertionError as error:
            return str(error)
        finally:
            for module in [name for name in sys.modules if name.split(".")[0] == f"mutant_{number}"]:
                del sys.modules[module]
    return ""


def main() -> None:
    names = sys.argv[1:] or ["", *MUTANTS]
    found = {name: verdict(number, MUTANTS.get(name)) for number, name in enumerate(names)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
