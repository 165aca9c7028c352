"""fa-doctor: diagnoses, installs and proves FlashAttention on AMD GPUs."""

__version__ = "0.1.0"
