"""FlashAttention 3 or 4 in place of PyTorch's flash kernel, if one is installed and works."""

import warnings
from contextlib import suppress

import torch
import torch.nn.functional as F
from torch.nn import attention
from torch.nn.attention import SDPBackend, sdpa_kernel

_VERSIONS = {9: ("FA4", "FA3"), 10: ("FA4",)}
"""Versions that support a GPU's major compute capability, the newest first."""
_TOLERANCE = 0.02
"""Largest error of a bfloat16 kernel, relative to the norm of a float64 result; usual errors are 0.003."""


def activate_flash_attention(device: torch.device) -> str | None:
    """Activates the newest installed FlashAttention that supports this GPU, process-wide.

    PyTorch and these packages are released separately, and only use shows which versions fit together. Each
    therefore passes a self-test first; one that fails is replaced by PyTorch's own kernel, with a warning.

    Returns:
        ``FA4`` (https://github.com/Dao-AILab/flash-attention, flash_attn.cute) or ``FA3``
        (https://arxiv.org/abs/2407.08608, flash_attn_interface); None if PyTorch's own kernel stays.
    """
    for name in _VERSIONS.get(torch.cuda.get_device_capability(device)[0], ()):
        # Raised if it is not installed or of an unknown version; PyTorch before 2.10 has no such function.
        with suppress(ImportError, OSError, RuntimeError, AttributeError, ValueError):
            attention.activate_flash_attention_impl(name)
            fault = _fault(device)
            if fault is None:
                return name
            attention.restore_flash_attention_impl()
            warnings.warn(f"{name} is installed, but PyTorch's own kernel is used: {fault}", stacklevel=2)
    return None


def _fault(device: torch.device) -> str | None:
    """Tests the active flash kernel forward and backward against float64; returns one line if it is wrong."""
    generator = torch.Generator().manual_seed(0)
    # In the layout of SelfAttention: the heads of a position side by side in memory.
    exact = [torch.randn(2, 256, heads, 64, generator=generator, dtype=torch.float64) for heads in (4, 2, 2)]
    exact = [x.bfloat16().double().transpose(1, 2) for x in exact]
    tried = [x.bfloat16().to(device) for x in exact]
    try:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            found = _both_ways(tried)
    except Exception as error:  # The package may raise anything.
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
    """Returns the active FlashAttention, such as ``FA3``; None if it is PyTorch's own flash kernel."""
    ask = getattr(attention, "current_flash_attention_impl", None)
    name: str | None = ask() if ask else None
    return name
