"""What NVIDIA GPUs can do."""

import torch

_PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "A10G": 70.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
"""Dense bfloat16 products with float32 sums, by the maker's data sheets; the longer of two names first."""


def peak_flops(device: torch.device) -> float | None:
    """Returns the operations per second that a GPU can do at most in bfloat16; None if that is not known."""
    if device.type != "cuda":
        return None
    return peak_flops_of(torch.cuda.get_device_name(device))


def peak_flops_of(name: str) -> float | None:
    """Returns the same by the GPU's name.

    >>> peak_flops_of("NVIDIA H100 80GB HBM3"), peak_flops_of("NVIDIA L40S"), peak_flops_of("NVIDIA L40")
    (989000000000000.0, 362000000000000.0, None)
    """
    words = f" {name} "
    found = (tflops for gpu, tflops in _PEAK_TFLOPS.items() if f" {gpu} " in words.replace("-", " "))
    tflops = next(found, None)
    return None if tflops is None else tflops * 1e12
