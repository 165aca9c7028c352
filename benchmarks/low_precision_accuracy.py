"""What each storage type of keys and values does to the result of attention: fp8, int8, and MXFP4, beside bfloat16.

    python benchmarks/low_precision_accuracy.py

Relative root mean square error of the output against float64, 64 queries, 4096 keys, head dimension 128, for three kinds of
keys: normal ones; ones with every 32nd channel eight times larger, as keys of language models have them; and queries three
times larger, which attend to few keys. fp8 and int8 as `quantize` makes them, one scale a head and one for each 64 tokens;
MXFP4: 4-bit e2m1 numbers with a power of two for each 32 (Open Compute Project, MX specification 1.0).

It is the ground of a decision: MXFP4 keys and values are not offered. Their error is several times that of fp8, and with
channels of unequal size it is of the order of the result.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from fa_doctor.kernels.quantized import dequantize, quantize

Round = Callable[[torch.Tensor], torch.Tensor]
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def through(dtype: torch.dtype, block_size: int | None = None) -> Round:
    def rounded(x: torch.Tensor) -> torch.Tensor:
        return dequantize(*quantize(x[None, :, None], dtype, block_size), block_size)[0, :, 0].double()

    return rounded


def mxfp4(x: torch.Tensor) -> torch.Tensor:
    groups = x.view(-1, 32)
    # The largest number of a group gets the largest exponent of e2m1, which is 2.
    scale = torch.exp2(torch.floor(torch.log2(groups.abs().amax(-1, keepdim=True))) - 2)
    levels = torch.tensor(E2M1, dtype=x.dtype)
    nearest = levels[((groups / scale).abs()[..., None] - levels).abs().argmin(-1)]
    return (nearest * groups.sign() * scale).view_as(x)


TYPES: dict[str, Round] = {
    "bfloat16": lambda x: x.bfloat16().double(),
    "fp8 e4m3, a head": through(torch.float8_e4m3fn),
    "fp8 e4m3, 64 tokens": through(torch.float8_e4m3fn, 64),
    "fp8 e5m2, a head": through(torch.float8_e5m2),
    "int8, a head": through(torch.int8),
    "int8, 64 tokens": through(torch.int8, 64),
    "MXFP4": mxfp4,
}


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.softmax(q @ k.T * q.shape[-1] ** -0.5, -1) @ v


def main() -> None:
    torch.manual_seed(0)
    print(f"{'':20} {'keys':>36} {'values':>12}")
    print(f"{'stored as':20} {'normal':>12}{'channels':>12}{'peaked':>12} {'normal':>12}")
    q, k, v = (torch.randn(n, 128, dtype=torch.float64) for n in (64, 4096, 4096))
    large = k.clone()
    large[:, ::32] *= 8
    for name, rounded in TYPES.items():
        errors = []
        for queries, keys in ((q, k), (q, large), (3 * q, k)):
            expected = attention(queries, keys, v)
            errors.append(relative(attention(queries, rounded(keys), v), expected))
        errors.append(relative(attention(q, k, rounded(v)), attention(q, k, v)))
        print(f"{name:20} " + "".join(f"{e:12.4f}" for e in errors[:3]) + f" {errors[3]:12.4f}")


def relative(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x - y).square().mean().sqrt() / y.square().mean().sqrt())


if __name__ == "__main__":
    main()
