"""flash_attn.layers of the bundled kernels."""
