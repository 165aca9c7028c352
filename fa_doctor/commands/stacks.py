"""`fa-doctor stacks [NAME]`: the stacks that are known to fit together, and everything known of one."""

from __future__ import annotations

import dataclasses
import json
import textwrap

import click

from fa_doctor.errors import UsageProblem
from fa_doctor.knowledge.gpus import normalize_gfx
from fa_doctor.knowledge.stacks import Recommendation, Stack, find_stack, recommendation_for, recommendations, stacks

__all__ = ["command"]


@click.command("stacks")
@click.argument("name", required=False)
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text", help="Output format.")
def command(name: str | None, style: str) -> None:
    """Lists the stacks that are known to fit together, or shows everything known of one.

    NAME is a stack's name, a recommendation's name or a gfx target.
    """
    if name is None:
        if style == "json":
            rows = [dataclasses.asdict(stack) for stack in stacks().values()]
            choices = [dataclasses.asdict(choice) for choice in recommendations().values()]
            click.echo(json.dumps({"stacks": rows, "recommendations": choices}, indent=2))
        else:
            click.echo(_table())
        return
    stack, choice = _find(name)
    if style == "json":
        shown = {"stack": dataclasses.asdict(stack), "recommendation": dataclasses.asdict(choice) if choice else None}
        click.echo(json.dumps(shown, indent=2))
    else:
        click.echo(_page(stack, choice))


def _find(name: str) -> tuple[Stack, Recommendation | None]:
    found = find_stack(name)
    if found:
        return found
    gfx = normalize_gfx(name)
    choice = recommendation_for(gfx) if gfx else None
    if choice:
        return stacks()[choice.stack], choice
    if gfx:
        raise UsageProblem(f"no stack is known to fit {gfx}; `fa-doctor gpus {gfx}` shows what is known of it")
    raise UsageProblem(f"no stack named {name!r} is known; `fa-doctor stacks` lists them all")


def _table() -> str:
    lines = ["Recommended (name, stack, for what):"]
    lines += [
        f"  {choice.name:<15} {choice.stack:<25} {textwrap.shorten(choice.purpose, 37, placeholder=' ...')}"
        for choice in recommendations().values()
    ]
    lines += ["", f"  {'stack':<25} {'Triton':<27} {'Python':<12} GPUs"]
    for stack in stacks().values():
        python = f"{stack.python[0]} - {stack.python[-1]}"
        targets = "CPU" if stack.cpu else f"{len(stack.archs)} targets"
        lines.append(f"  {stack.name:<25} {stack.triton + ' ' + stack.triton_version:<27} {python:<12} {targets}")
    return "\n".join(lines)


def _page(stack: Stack, choice: Recommendation | None) -> str:
    lines = [f"{choice.name}: {choice.purpose}" if choice else stack.name]

    def say(label: str, text: str | None) -> None:
        if text:
            lines.append(textwrap.fill(text, 80, initial_indent=f"  {label:<13} ", subsequent_indent=" " * 16))

    say("stack", stack.name)
    say("torch", stack.torch_pin)
    say("index", stack.url or "the index that pip is configured with")
    say("Triton", f"{stack.triton}=={stack.triton_version}")
    say("Python", ", ".join(stack.python))
    say(
        "ROCm",
        stack.rocm and f"{stack.rocm} ({'inside the wheel' if stack.rocm_bundled else 'from wheels of its own'})",
    )
    say("GPUs", ", ".join(stack.archs) or "none (CPU)")
    say("AOTriton", stack.aotriton)
    say("torchvision", stack.torchvision)
    say("torchaudio", stack.torchaudio)
    say("download", f"{stack.download_gb:g} GB" if stack.download_gb else None)
    say("installed", f"{stack.installed_gb:g} GB" if stack.installed_gb else None)
    say("note", stack.note)
    if choice:
        say("best for", ", ".join(choice.gfx))
        say("partly for", ", ".join(choice.gfx_partly) or None)
        for gfx, why in choice.gfx_not.items():
            say("not for", f"{gfx}: {why}")
        say("attention", {"bundled": "the bundled Triton kernels", "none": "none: use SDPA of torch"}[choice.attention])
        say("flash-attn", choice.flash_attn)
        say("environment", " ".join(f"{name}={value}" for name, value in choice.environment.items()) or None)
        say("instead", ", ".join(choice.alternatives) or None)
        say("advice", choice.advice)
    say("confidence", choice.confidence if choice else stack.confidence)
    lines.append("  sources")
    texts = dict.fromkeys((*(choice.sources if choice else ()), *stack.sources))
    lines += [textwrap.fill(text, 80, initial_indent="    ", subsequent_indent="      ") for text in texts]
    return "\n".join(lines)
