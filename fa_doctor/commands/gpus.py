"""`fa-doctor gpus [NAME]`: the GPUs that are known, and everything known of one."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from typing import Any

import click

from fa_doctor.errors import UsageProblem
from fa_doctor.knowledge.gpus import Architecture, architecture, architectures, normalize_gfx
from fa_doctor.knowledge.products import Product, products
from fa_doctor.knowledge.stacks import recommendation_for, stacks

__all__ = ["command"]


@click.command("gpus")
@click.argument("name", required=False)
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", help="Output format.")
def command(name: str | None, style: str) -> None:
    """Lists the known GPUs, or shows everything known of one.

    NAME is a gfx target (gfx1100) or part of a product's name (MI300X).
    """
    found = _matching(name) if name else list(architectures().values())
    if not found:
        raise UsageProblem(f"no GPU named {name!r} is known; `fa-doctor gpus` lists them all")
    if style == "json":
        click.echo(json.dumps([_as_json(row) for row in found], indent=2))
    elif name:
        click.echo("\n\n".join(_page(row) for row in found))
    else:
        click.echo(_table(found))


def _matching(name: str) -> list[Architecture]:
    gfx = normalize_gfx(name)
    exact = architecture(gfx) if gfx else None
    if exact:
        return [exact]
    wanted = name.lower()
    targets = {product.gfx for product in products() if wanted in product.name.lower()}
    return [
        row
        for row in architectures().values()
        if row.gfx in targets or wanted in row.codename.lower() or wanted == row.family.lower()
    ]


def _products_of(gfx: str) -> list[Product]:
    return [product for product in products() if product.gfx == gfx]


def _as_json(row: Architecture) -> dict[str, Any]:
    return {**dataclasses.asdict(row), "products": [dataclasses.asdict(product) for product in _products_of(row.gfx)]}


def _table(rows: list[Architecture]) -> str:
    lines = [f"{'gfx':<8} {'family':<8} {'wave':>4}  {'matrix':<6}  {'ROCm':<11}  products"]
    for row in rows:
        names = ", ".join(product.name for product in _products_of(row.gfx)) or row.codename
        lines.append(
            f"{row.gfx:<8} {row.family:<8} {row.wavefront_size:>4}  {row.matrix_instructions:<6}  "
            f"{row.rocm_status:<11}  {textwrap.shorten(names, 32, placeholder=' ...')}"
        )
    return "\n".join(lines)


def _page(row: Architecture) -> str:
    lines = [f"{row.gfx}  {row.codename} ({row.family})"]

    def say(label: str, text: str | None) -> None:
        if text:
            lines.append(textwrap.fill(text, 80, initial_indent=f"  {label:<18} ", subsequent_indent=" " * 21))

    say("wavefront", f"{row.wavefront_size} lanes")
    say("LDS", f"{row.lds_kib} KiB a workgroup" if row.lds_kib else None)
    say("matrix", "; ".join(part for part in (row.matrix_instructions, row.matrix_note) if part))
    span = " ".join(
        part
        for part in (row.rocm_since and f"since {row.rocm_since}", row.rocm_until and f"until {row.rocm_until}")
        if part
    )
    say("ROCm", "; ".join(part for part in (f"{row.rocm_status} {span}".strip(), row.rocm_note) if part))
    wheels = [stack.torch_pin for stack in stacks().values() if row.gfx in stack.archs]
    say("torch wheels", ", ".join(wheels) if wheels else "none has code for it")
    say(
        "flash-attn CK",
        (row.flash_attn_ck_since and f"since {row.flash_attn_ck_since}") or row.flash_attn_ck_note or "no",
    )
    listed = f"listed since {row.flash_attn_triton_since}" if row.flash_attn_triton_since else "not listed"
    say("flash-attn Triton", "; ".join(part for part in (listed, row.flash_attn_triton_note) if part))
    say("SDPA (AOTriton)", _aotriton(row))
    if row.override:
        until = f", needed before torch {row.override.needed_before_torch}" if row.override.needed_before_torch else ""
        say(
            "override",
            f"HSA_OVERRIDE_GFX_VERSION={row.override.value} runs {row.override.runs_as} code{until}: "
            f"{row.override.caveat}",
        )
    say("partitions", ", ".join(row.compute_partitions + row.memory_partitions) or None)
    say("note", row.note)
    choice = recommendation_for(row.gfx)
    say("stack", f"{choice.name}: {choice.stack}" if choice else "none is known to fit")
    say("advice", choice.advice if choice else None)
    lines.append("  products")
    for product in _products_of(row.gfx):
        facts = [
            f"{product.compute_units} CU" if product.compute_units else "",
            f"{product.vram_gib:g} GiB" if product.vram_gib else "",
            f"{product.bandwidth_gb_s:g} GB/s" if product.bandwidth_gb_s else "",
            f"{product.fp16_tflops:g} TFLOPS fp16" if product.fp16_tflops else "",
        ]
        lines.append(f"    {product.name}: " + (", ".join(fact for fact in facts if fact) or "no figures recorded"))
    say("confidence", row.confidence)
    lines.append("  sources")
    lines += [textwrap.fill(text, 80, initial_indent="    ", subsequent_indent="      ") for text in row.sources]
    return "\n".join(lines)


def _aotriton(row: Architecture) -> str:
    parts = []
    if row.aotriton_official_since:
        parts.append(f"since torch {row.aotriton_official_since}")
    if row.aotriton_experimental_since:
        parts.append(f"behind TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL=1 since torch {row.aotriton_experimental_since}")
    if row.aotriton_experimental_again:
        parts.append(f"behind it again in torch {', '.join(row.aotriton_experimental_again)}")
    if row.aotriton_note:
        parts.append(row.aotriton_note)
    return "; ".join(parts) or "no kernels: SDPA runs its math kernel"
