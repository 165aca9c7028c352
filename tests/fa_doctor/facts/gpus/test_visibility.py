"""Which devices the *_VISIBLE_DEVICES variables leave, by the rules of the runtimes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa_doctor.facts.gpus.visibility import apply_visibility, select_hip, select_rocr

IDS = ["1901ead3a2ecd4a6", "51276ac12ce05db3", None, "19ffead3a2ecd4a6"]
ROCR, HIP, CUDA = "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("value", "chosen", "rejected"),
    [
        ("0,1", [0, 1], None),
        ("3,0", [3, 0], None),
        ("", [], None),  # set to nothing: no device
        (" 1 , 0x2 ", [1, 2], None),  # trimmed, read as C reads integers
        ("010", [], "010"),  # octal 8
        ("0,4,1", [0], "4"),
        ("0,-1,1", [0], "-1"),
        ("1,1,0", [1], "1"),  # a device named before ends the list
        ("GPU-51276ac12ce05db3", [1], None),
        ("gpu-5127", [1], None),  # the start of an id, in any case
        ("GPU-19", [], "GPU-19"),  # fits two
        ("GPU-", [], "GPU-"),
        ("0,,1", [0], ""),
        ("all", [], "all"),
        ("0,1,2,3,77", [0, 1, 2, 3], None),  # no more entries than devices are read
    ],
)
def test_rocr(value: str, chosen: list[int], rejected: str | None) -> None:
    assert select_rocr(value, IDS) == (chosen, rejected)


@pytest.mark.parametrize(
    ("value", "chosen", "rejected"),
    [
        ("0,1", [0, 1], None),
        ("3,0", [3, 0], None),
        ("-1", [], "-1"),
        ("0,4,1", [0], "4"),
        ("1,1,0", [1, 0], None),  # named twice counts once
        ("0, 1", [0], " 1"),  # a blank is not trimmed
        ("01", [], "01"),
        ("GPU-51276ac12ce05db3,0", [1, 0], None),
        ("GPU-ffff", [], "GPU-ffff"),
        ("0,1,", [0, 1], None),
        ("0,,1", [0], ""),
    ],
)
def test_hip(value: str, chosen: list[int], rejected: str | None) -> None:
    assert select_hip(value, IDS) == (chosen, rejected)


@pytest.mark.parametrize(
    ("environ", "order"),
    [
        ({}, (0, 1, 2, 3)),
        ({ROCR: "2,3", HIP: "1"}, (3,)),  # HIP counts within what ROCR leaves
        ({ROCR: "1", CUDA: "1"}, ()),
        ({HIP: "2", CUDA: "0"}, (2,)),
        ({HIP: "", CUDA: "1"}, (1,)),  # an empty HIP list is as none
        ({CUDA: ""}, (0, 1, 2, 3)),
        ({ROCR: "3,1", HIP: "GPU-51276ac12ce05db3"}, (1,)),
        ({"GPU_DEVICE_ORDINAL": "0"}, (0, 1, 2, 3)),  # for OpenCL only
    ],
)
def test_both(environ: dict[str, str], order: tuple[int, ...]) -> None:
    left = apply_visibility(IDS, environ)
    assert left.order == order
    assert set(left.hidden_by) == set(range(4)) - set(order)


@given(
    environ=st.dictionaries(
        st.sampled_from([ROCR, HIP, CUDA]),
        st.one_of(
            st.text(max_size=12),
            st.lists(st.sampled_from(["0", "1", "7", "-1", "GPU-19", " 2", ""]), max_size=6).map(",".join),
        ),
    ),
    count=st.integers(0, 5),
)
def test_anything_leaves_a_part_of_the_devices(environ: dict[str, str], count: int) -> None:
    left = apply_visibility((IDS * 2)[:count], environ)
    assert len(set(left.order)) == len(left.order)
    assert set(left.order) <= set(range(count))
    assert set(left.hidden_by) == set(range(count)) - set(left.order)
    assert set(left.hidden_by.values()) <= set(environ)
