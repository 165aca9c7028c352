"""The attention kernels of fa-doctor under the names of flash-attn 2.8: same functions, arguments and returns."""

__version__ = "2.8.3+fadoctor.1"

from flash_attn import prebuilt

# Before the kernels are imported: Triton must know where prebuilt ones lie when the first is asked for.
prebuilt.activate()

from flash_attn.flash_attn_interface import (  # noqa: E402
    flash_attn_func,
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
    flash_attn_with_kvcache,
)

__all__ = [
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
]
