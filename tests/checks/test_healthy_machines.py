"""On a healthy machine nothing fails, nothing warns, and no check is left undecided for want of a fact of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from healthy import mi300x, rx7900xtx, wsl
from staged_machine import Staged, examine, trouble


@pytest.mark.parametrize("build", [mi300x, rx7900xtx, wsl], ids=lambda build: build.__name__)
def test_nothing_is_wrong(build: Callable[[], Staged], tmp_path: Path) -> None:
    machine, findings = examine(build(), tmp_path)
    assert trouble(findings) == {}
    assert machine.python.version == "3.12.3"
    assert machine.torch is not None
    assert machine.torch.build == "rocm"
    assert machine.triton is not None
    assert [owner.name for owner in machine.triton.owners] in (["pytorch-triton-rocm"], ["triton-rocm"])
    assert machine.flash_attention is not None
    assert machine.flash_attention.kind == "bundled"
    assert machine.container.inside is False
