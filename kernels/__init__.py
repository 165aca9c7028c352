"""FlashAttention in Triton. Knows nothing of the doctor; imports only torch, Triton and itself, relatively."""
