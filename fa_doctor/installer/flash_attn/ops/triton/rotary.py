"""flash_attn.ops.triton.rotary: the rotary kernel, from the bundled kernels."""

from flash_attn.kernels.rotary import apply_rotary

__all__ = ["apply_rotary"]
