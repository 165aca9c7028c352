"""flash_attn.ops of the bundled kernels."""
