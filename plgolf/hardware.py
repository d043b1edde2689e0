"""The machine's processor: name, peak speed, and the dtype in which products are fast."""

import platform
from collections.abc import Mapping
from typing import Any, Literal

import torch

from plgolf.errors import UserError

_Dtype = Literal["bfloat16", "float32"]
_CPU_PRODUCTS = ("avx512_bf16", "amx_bf16")
"""CPU features with which bfloat16 products are twice as fast as float32; other CPUs emulate bfloat16."""


def fast_dtype() -> _Dtype:
    """Returns bfloat16 if the GPU, or without a GPU the CPU, multiplies in it natively; else float32.

    Asking initialises CUDA: the process cannot be forked afterwards.
    """
    if torch.cuda.is_available():
        # GPUs before the Ampere generation emulate it, too.
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    # torch 2.6 to 2.11 lack this function.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    on_cpu = any(capabilities.get(name) for name in _CPU_PRODUCTS)
    return "bfloat16" if on_cpu else "float32"


def resolve_dtype(setting: str, value: _Dtype | Literal["auto"]) -> _Dtype:
    """Resolves ``auto`` to the dtype that is fast on this machine; refuses other values of the setting."""
    dtype = fast_dtype() if value == "auto" else value
    if dtype not in ("bfloat16", "float32"):
        raise UserError(f"{setting} must be bfloat16, float32 or auto, got {value}")
    return dtype


def device_name(device: torch.device) -> str:
    """Returns the name of a GPU, or a CPU's architecture and number of threads."""
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
"""TFLOPS of dense bfloat16 products with float32 sums, from NVIDIA's data sheets; longer names come first."""


def peak_flops(device: torch.device) -> float | None:
    """Returns a GPU's peak bfloat16 operations per second; None if unknown or not a GPU."""
    return peak_flops_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_flops_of(name: str) -> float | None:
    """Returns the peak bfloat16 operations per second of a GPU by its name; None if unknown.

    >>> peak_flops_of("NVIDIA H100 80GB HBM3"), peak_flops_of("NVIDIA L40S"), peak_flops_of("NVIDIA L40")
    (989000000000000.0, 362000000000000.0, None)
    """
    words = f" {name} "
    found = (tflops for gpu, tflops in _PEAK_TFLOPS.items() if f" {gpu} " in words.replace("-", " "))
    tflops = next(found, None)
    return None if tflops is None else tflops * 1e12
