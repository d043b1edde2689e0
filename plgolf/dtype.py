"""What to compute in, and what a machine computes fast in."""

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


def chosen_dtype(
    setting: str, value: Literal["bfloat16", "float32", "auto"]
) -> Literal["bfloat16", "float32"]:
    """Returns the dtype that a setting asks for, where ``auto`` is what this machine is fast in.

    Args:
        setting: its name, for messages.
        value: what it was set to.

    Raises:
        UserError: that is none of bfloat16, float32 and auto.

    >>> chosen_dtype("compute_dtype", "float32")
    'float32'
    """
    dtype = fast_dtype() if value == "auto" else value
    if dtype not in ("bfloat16", "float32"):
        raise UserError(f"{setting} must be bfloat16, float32 or auto, got {value}")
    return dtype
