"""FlashAttention 3 and 4 instead of PyTorch's own flash kernel, where one of them is installed and works."""

import warnings
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch.nn import attention
from torch.nn.attention import SDPBackend, sdpa_kernel

_TOLERANCE = 0.02
"""Of bfloat16 kernels, relative to the norm of what float64 gives; their errors are some 0.003."""


def use_installed(device: torch.device) -> str | None:
    """Has PyTorch use the newest that is installed and made for a GPU, in this whole process.

    PyTorch and the packages change apart from each other, and which versions go together shows in use alone.
    So each has a trial, and one that fails it leaves PyTorch's own kernel in place, with a warning.

    Args:
        device: the GPU.

    Returns:
        ``FA4`` (https://github.com/Dao-AILab/flash-attention, flash_attn.cute) or ``FA3``
        (https://arxiv.org/abs/2407.08608, flash_attn_interface); None if PyTorch's own stays.
    """
    for name in made_for(torch.cuda.get_device_capability(device)):
        # Not installed, or in no version that PyTorch knows; before 2.10 PyTorch knew neither.
        with suppress(ImportError, OSError, RuntimeError, AttributeError, ValueError):
            attention.activate_flash_attention_impl(name)
            fault = find_fault(device)
            if fault is None:
                return name
            attention.restore_flash_attention_impl()
            warnings.warn(f"{name} is installed, but PyTorch's own kernel is used: {fault}", stacklevel=2)
    return None


def made_for(capability: tuple[int, int]) -> tuple[str, ...]:
    """Returns what is made for GPUs of a capability, the newest first.

    >>> made_for((9, 0)), made_for((8, 9))
    (('FA4', 'FA3'), ())
    """
    return {9: ("FA4", "FA3"), 10: ("FA4",)}.get(capability[0], ())


def find_fault(device: torch.device) -> str | None:
    """Tries what stands for PyTorch's flash kernel, forward and backward with grouped heads.

    Returns:
        What is wrong with it; None if it gives what it should.
    """
    generator = torch.Generator().manual_seed(0)
    # As attention has them: the heads of a position side by side in memory.
    exact = [torch.randn(2, 256, heads, 64, generator=generator, dtype=torch.float64) for heads in (4, 2, 2)]
    exact = [x.bfloat16().double().transpose(1, 2) for x in exact]
    tried = [x.bfloat16().to(device) for x in exact]
    try:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            found = _both_ways(tried)
    except Exception as error:  # Whatever another's package raises.
        return f"{type(error).__name__}: {error}".splitlines()[0]
    with sdpa_kernel(SDPBackend.MATH):
        expected = _both_ways(exact)
    apart = max(float((a.double().cpu() - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))
    return None if apart < _TOLERANCE else f"its results are off by {apart:.1g}"


def _both_ways(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    q, k, v = leaves
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]


def in_use() -> str | None:
    """Returns what has taken the place of PyTorch's own flash kernel; None if nothing has."""
    ask = getattr(attention, "current_flash_attention_impl", None)
    name: str | None = ask() if ask else None
    return name
