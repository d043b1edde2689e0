"""What the machine computes on: its name, its peak speed, the dtype that it multiplies fast in."""

import platform
from collections.abc import Mapping
from typing import Any, Literal

import torch

from plgolf.errors import UserError

_CPU_PRODUCTS = ("avx512_bf16", "amx_bf16")
"""A CPU with one of these multiplies in bfloat16 at twice the speed of float32; others emulate it."""


def fast_dtype() -> Literal["bfloat16", "float32"]:
    """Returns bfloat16 where the GPU multiplies in it, or without a GPU the CPU; else float32.

    To ask a GPU is to begin to use it: a process that has done so cannot be forked any more.
    """
    if torch.cuda.is_available():
        # Before the Ampere generation GPUs emulate it too.
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    # Torch 2.6 to 2.11 do not tell what a CPU can do.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    on_cpu = any(capabilities.get(name) for name in _CPU_PRODUCTS)
    return "bfloat16" if on_cpu else "float32"


def resolve_dtype(
    setting: str, value: Literal["bfloat16", "float32", "auto"]
) -> Literal["bfloat16", "float32"]:
    """Returns the dtype that a setting asks for, where ``auto`` is what this machine is fast in.

    Args:
        setting: its name, for messages.
        value: what it was set to.

    Raises:
        UserError: that is none of bfloat16, float32 and auto.

    >>> resolve_dtype("compute_dtype", "float32")
    'float32'
    """
    dtype = fast_dtype() if value == "auto" else value
    if dtype not in ("bfloat16", "float32"):
        raise UserError(f"{setting} must be bfloat16, float32 or auto, got {value}")
    return dtype


def device_name(device: torch.device) -> str:
    """Names what a rank computes on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


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
