"""flash_attn.ops.triton of the bundled kernels."""
