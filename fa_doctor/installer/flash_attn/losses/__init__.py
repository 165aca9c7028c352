"""flash_attn.losses of the bundled kernels."""
