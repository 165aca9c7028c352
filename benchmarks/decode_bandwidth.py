"""How near decoding comes to the speed of memory: one query a sequence against a long cache, beside a plain copy.

    python benchmarks/decode_bandwidth.py [--quick] [--sweep] [--json FILE]

Decoding reads each key and value once and writes next to nothing, so the bytes of the cache over the time is a bandwidth,
and what the card reaches in a large device-to-device copy (bytes read plus bytes written) is what to hold it against.
Each shape rotates through several caches, together larger than any L2, inside one graph: launches cost the host nothing,
and no key is found in a cache of the chip. Medians. --sweep tries tile sizes and numbers of splits on a few shapes.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch

from fa_doctor.kernels import decode, flash_attn_with_kvcache
from fa_doctor.kernels.config import Config

HEADS, HEADS_K, HEAD_DIM = 64, 8, 128
BEYOND_L2 = 1 << 29
TILES = (  # block_n, warps, stages: what a sweep tries
    (32, 2, 4), (32, 4, 3), (32, 4, 5), (64, 2, 3), (64, 4, 2), (64, 4, 3), (64, 4, 4), (64, 8, 3), (128, 4, 2), (128, 4, 3),
    (128, 8, 2), (128, 8, 3),
)  # fmt: skip


def seconds(calls: list[Callable[[], object]], repeats: int = 15) -> float:
    """Median time of one call, over `repeats` replays of a graph of all of them."""
    for call in calls[:2]:
        call()  # compile
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(repeats + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / len(calls))
    return statistics.median(times[2:])


def copy_bandwidth() -> float:
    """Bytes a second, read plus written, of a large copy: the best over sizes, of PyTorch's copy and of an addition."""
    best = 0.0
    for size in (1 << 28, 1 << 29, 1 << 30):
        source = torch.empty(size, dtype=torch.int32, device="cuda").random_()
        target = torch.empty_like(source)
        for call in (lambda: target.copy_(source), lambda: torch.add(source, 1, out=target)):  # noqa: B023
            best = max(best, 2 * source.nbytes / seconds([call] * 2))
    return best


def caches(batch: int, keys: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Random caches, as many as make the whole larger than any L2."""
    size = 2 * batch * keys * HEADS_K * HEAD_DIM * 2
    count = max(1, min(16, BEYOND_L2 // size + 1))
    shape = (batch, keys, HEADS_K, HEAD_DIM)
    return [tuple(_randn(shape) for _ in range(2)) for _ in range(count)]  # type: ignore[misc]


def _randn(shape: tuple[int, ...]) -> torch.Tensor:
    """Normal bfloat16 values, made in place: the largest caches leave no room for a float32 copy."""
    return torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_()


def attend(
    batch: int, keys: int, pairs: list[tuple[torch.Tensor, torch.Tensor]], **options: Any
) -> list[Callable[[], object]]:
    q = _randn((batch, 1, HEADS, HEAD_DIM))
    lengths = torch.full((batch,), keys, dtype=torch.int32, device="cuda")
    return [
        lambda k=k, v=v: flash_attn_with_kvcache(q, k, v, cache_seqlens=lengths, causal=True, **options)  # type: ignore[misc]
        for k, v in pairs
    ]


def sdpa(batch: int, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> list[Callable[[], object]]:
    """PyTorch's own attention on the same caches."""
    q = _randn((batch, HEADS, 1, HEAD_DIM))
    attention = torch.nn.functional.scaled_dot_product_attention
    return [
        lambda k=k, v=v: attention(q, k.transpose(1, 2), v.transpose(1, 2), enable_gqa=True)  # type: ignore[misc]
        for k, v in pairs
    ]


def measure(quick: bool, copy: float) -> list[dict[str, Any]]:
    rows = []
    print(f"{'batch':>5} {'keys':>7} {'GiB':>6} {'us':>9} {'TB/s':>6} {'of copy':>8} {'copy us':>9} {'sdpa us':>9}")
    for batch in (1, 8, 64) if quick else (1, 2, 4, 8, 16, 32, 64):
        for keys in (8192, 131072) if quick else (8192, 16384, 32768, 65536, 131072):
            pairs = caches(batch, keys)
            size = 2 * pairs[0][0].nbytes
            ours = seconds(attend(batch, keys, pairs))
            # The same bytes as a copy of half of them, in the same rotation: what a launch of this size can reach at all.
            same = seconds([lambda k=k, v=v: k.copy_(v) for k, v in pairs])  # type: ignore[misc]
            theirs = seconds(sdpa(batch, pairs), 5) if batch * keys <= 1 << 19 else None
            row = {
                "batch": batch, "keys": keys, "bytes": size, "seconds": ours, "bandwidth": size / ours,
                "of_copy": size / ours / copy, "same_copy_seconds": same, "sdpa_seconds": theirs,
            }  # fmt: skip
            rows.append(row)
            beside = f"{theirs * 1e6:9.1f}" if theirs else f"{'-':>9}"
            print(
                f"{batch:5d} {keys:7d} {size / 2**30:6.2f} {ours * 1e6:9.1f} {size / ours / 1e12:6.2f} "
                f"{size / ours / copy:8.1%} {same * 1e6:9.1f} {beside}",
                flush=True,
            )
            del pairs
            torch.cuda.empty_cache()
    worst = min(rows, key=lambda r: r["of_copy"])
    print(f"least: {worst['of_copy']:.1%} of the copy bandwidth, at batch {worst['batch']}, {worst['keys']} keys")
    return rows


def sweep(copy: float) -> None:
    """Tile sizes and splits on a few shapes, best first: what the configuration of this card is chosen from."""
    configured = decode.tuning.pick
    for batch, keys in ((1, 8192), (1, 131072), (4, 8192), (8, 32768), (64, 8192)):
        pairs = caches(batch, keys)
        size, found = 2 * pairs[0][0].nbytes, []
        for block_n, warps, stages in TILES:
            config = Config(16, block_n, warps, stages)
            decode.tuning.pick = lambda *_, config=config: config
            for splits in (0, *(s for s in (8, 16, 32, 64, 128) if 132 <= batch * HEADS_K * s <= 2112)):
                try:
                    time = seconds(attend(batch, keys, pairs, num_splits=splits), 5)
                except Exception as error:  # noqa: BLE001 - a tile that does not fit the card is one row of the sweep
                    print(f"block_n {block_n} warps {warps} stages {stages}: {type(error).__name__}")
                    break
                found.append((time, block_n, warps, stages, splits))
        print(f"batch {batch}, {keys} keys: " + f"copy would take {size / copy * 1e6:.1f} us")
        for time, block_n, warps, stages, splits in sorted(found)[:6]:
            print(
                f"  {time * 1e6:8.1f} us {size / time / copy:6.1%}  block_n {block_n} warps {warps} stages {stages} "
                f"splits {splits or 'chosen'}",
                flush=True,
            )
    decode.tuning.pick = configured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="6 of the 35 shapes")
    parser.add_argument("--sweep", action="store_true", help="try tile sizes and splits first")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU")
    copy = copy_bandwidth()
    properties = torch.cuda.get_device_properties(0)
    print(f"{properties.name}, torch {torch.__version__}: copy {copy / 1e12:.2f} TB/s (read + written)")
    print(f"bfloat16, {HEADS} heads, {HEADS_K} key/value heads, head dimension {HEAD_DIM}, one query a sequence")
    if options.sweep:
        sweep(copy)
    rows = measure(options.quick, copy)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"device": properties.name, "copy_bandwidth": copy, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
