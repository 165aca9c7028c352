"""Run by test_emulator.py in a process of its own: the compiled kernels for one AMD target, executed on this CPU.

    python emulated.py FOLDER_OF_THE_EMULATOR TARGET ORDER

Prints a line for each case: its name and the largest error of out, dq, dk and dv, relative to the largest value.
"""

import sys

import torch

CASES = {
    "causal dropout softcap": (1, 50, 40, 1, 1, 64, {"causal": True, "dropout_p": 0.1, "softcap": 16.0}),
    "window alibi": (1, 33, 70, 2, 2, 40, {"window_size": (20, 6), "alibi_slopes": torch.tensor([0.5, 0.1])}),
}


def main(folder: str, target: str, order: str) -> None:
    sys.path.insert(0, folder)
    import triton_driver

    triton_driver.install(target, poison=True, order=order if order == "reverse" else int(order))
    from fa_doctor.kernels import flash_attn_func, reference

    for name, (batch, sq, sk, heads, heads_k, dim, options) in CASES.items():
        generator = torch.Generator().manual_seed(1)
        q, g = (torch.randn(batch, sq, heads, dim, generator=generator).half() for _ in range(2))
        k, v = (torch.randn(batch, sk, heads_k, dim, generator=generator).half() for _ in range(2))
        inputs = [x.requires_grad_() for x in (q, k, v)]
        torch.manual_seed(3)
        out = flash_attn_func(*inputs, **options)
        got = (out, *torch.autograd.grad(out, inputs, g))
        keep = None
        if "dropout_p" in options:
            torch.manual_seed(3)
            rng_state = torch.randint(0, 2**62, (2,))
            keep = reference.dropout_keep(rng_state, options["dropout_p"], batch, heads, sq, sk)
        exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
        exact_out, _, _ = reference.attention(*exact_inputs, keep=keep, **options)
        exact = (exact_out, *torch.autograd.grad(exact_out, exact_inputs, g.double()))
        errors = [
            float((a.detach().double() - b.detach()).abs().max() / b.detach().abs().max())
            for a, b in zip(got, exact, strict=True)
        ]
        print(f"{name}: {max(errors):.2e}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
