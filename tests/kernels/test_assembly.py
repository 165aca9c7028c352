"""Costs read from assembly text, and occupancy from costs."""

from __future__ import annotations

import pytest

from fa_doctor.kernels.assembly import KernelCost, occupancy, read_assembly, target_limits

TEXT = """
	.text
kernel:
	s_load_dwordx4 s[0:3], s[4:5], 0x0
	v_mov_b32_e32 v0, 0
.LBB0_1:                                ; =>This Loop Header: Depth=1
	buffer_load_dwordx4 v[0:3], v4, s[0:3], 0 offen
.LBB0_2:                                ;   Parent Loop BB0_1 Depth=1
	ds_read_b128 v[0:3], v4
	v_mfma_f32_32x32x8_f16 v[0:15], v[0:1], v[2:3], v[0:15] ; a comment
	v_exp_f32_e32 v5, v6
	v_add_f32_e32 v5, v6, v7
	s_cbranch_scc1 .LBB0_2
; %bb.3:
	v_mfma_f32_32x32x8_f16 v[0:15], v[0:1], v[2:3], v[0:15]
	s_cbranch_vccnz .LBB0_1
	s_endpgm
	.section	.rodata,"a",@progbits
	.amdhsa_kernel kernel
; codeLenInByte = 96
; Occupancy: 4
    .agpr_count:     8
    .private_segment_fixed_size: 12
    .sgpr_count:     20
    .sgpr_spill_count: 1
    .vgpr_count:     128
    .vgpr_spill_count: 3
"""


def test_read_assembly() -> None:
    cost = read_assembly(TEXT)
    assert (cost.vgprs, cost.agprs, cost.sgprs, cost.vgpr_spills, cost.sgpr_spills) == (128, 8, 20, 3, 1)
    assert (cost.scratch_bytes, cost.code_bytes, cost.mfma, cost.wmma) == (12, 96, 2, 0)
    (loop,) = cost.loops
    assert loop.label == ".LBB0_2"
    assert loop.counts == {"lds": 1, "matrix": 1, "scalar": 1, "transcendental": 1, "vector": 1}


OUTLINED = """
kernel:
	s_mov_b32 s0, 0
.LBB0_1:
	v_wmma_f32_16x16x16_f16 v[0:7], v[8:15], v[16:23], v[0:7]
	s_cbranch_scc0 .LBB0_4
	v_add_f32_e32 v5, v6, v7
.LBB0_2:
	s_add_i32 s0, s0, 1
	s_cbranch_scc1 .LBB0_1
	s_cbranch_execnz .LBB0_5
.LBB0_3:
	global_store_b32 v[0:1], v2, off
	s_endpgm
.LBB0_4:
	v_exp_f32_e32 v5, v6
	s_branch .LBB0_2
.LBB0_5:
	global_store_b32 v[0:1], v3, off
	s_branch .LBB0_3
	.section	.rodata,"a",@progbits
    .vgpr_count:     128
"""


def test_code_behind_the_end_is_no_loop_unless_it_leads_back_to_itself() -> None:
    """.LBB0_4 belongs to the loop that it returns to; .LBB0_5 returns to what comes behind, and closes none."""
    (loop,) = read_assembly(OUTLINED).loops
    assert loop.label == ".LBB0_1"
    assert loop.counts == {"matrix": 1, "scalar": 4, "transcendental": 1, "vector": 1}


def test_text_that_is_no_kernel() -> None:
    with pytest.raises(ValueError, match="vgpr_count"):
        read_assembly("define void @f() { ret void }")


@pytest.mark.parametrize(
    ("arch", "vgprs", "agprs", "warps", "lds", "waves"),
    [
        ("gfx942", 128, 0, 4, 0, 4),  # 512 registers a lane in a SIMD
        ("gfx942", 129, 0, 4, 0, 3),  # given out by eights
        ("gfx942", 24, 0, 4, 0, 8),
        ("gfx942", 24, 0, 4, 32768, 2),  # two workgroups of one wave a SIMD
        ("gfx942", 24, 0, 4, 65537, 0),
        ("gfx950", 24, 0, 4, 65537, 2),
        ("gfx942", 300, 44, 8, 0, 0),  # two waves a SIMD do not fit
        ("gfx908", 128, 128, 4, 0, 2),  # two files of 256
        ("gfx1100", 153, 0, 4, 0, 9),  # 1536, by 24
        ("gfx1102", 153, 0, 4, 0, 6),  # 1024, by 16
        ("gfx1201", 256, 0, 4, 32768, 4),  # 128 KiB for the 4 SIMDs of a workgroup processor
    ],
)
def test_occupancy(arch: str, vgprs: int, agprs: int, warps: int, lds: int, waves: int) -> None:
    limits = target_limits(arch)
    assert limits is not None
    cost = KernelCost(vgprs, agprs, 32, 0, 0, 0, 1, 0, 100, None, arch.startswith("gfx1"), ())
    assert occupancy(cost, limits, warps, lds) == waves
