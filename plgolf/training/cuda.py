"""PyTorch's switches for NVIDIA GPUs."""

import torch


def set_up_cuda(compute_dtype: str) -> None:
    """Allows TF32 products and, as the reference does, flash attention only, which has no float32.

    Args:
        compute_dtype: the model's.
    """
    torch.set_float32_matmul_precision("high")
    if compute_dtype == "bfloat16" and torch.cuda.get_device_capability() >= (8, 0):
        torch.backends.cuda.enable_flash_sdp(True)
        torch.backends.cuda.enable_cudnn_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        torch.backends.cuda.enable_math_sdp(False)
