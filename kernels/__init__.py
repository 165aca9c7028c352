"""FlashAttention in Triton. Knows nothing of the doctor; imports only torch, Triton and itself, relatively."""

from . import cache_keys
from .interface import (
    flash_attn_func,
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)
from .kvcache import flash_attn_with_kvcache
from .quantized import dequantize, flash_attn_quantized_func, quantize
from .rotary import apply_rotary_emb

__all__ = [
    "apply_rotary_emb",
    "dequantize",
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_quantized_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
    "quantize",
]

cache_keys.settle(__name__)
