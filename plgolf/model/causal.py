"""Causal attention with the fastest kernel for device, dtype and length."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from plgolf.model import flash

_BLOCK = 128
"""Queries in a block."""
_BLOCKWISE_TIMES = {torch.bfloat16: range(1, 513), torch.float32: range(_BLOCK + 1, 513)}
"""Lengths at which blocks train faster on a CPU than PyTorch's kernel, by dtype (docs/performance.md)."""


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attends from each position to itself and to earlier positions.

    Args:
        q: queries, (batch, query heads, time, head_dim); the result has their shape and dtype.
        k: keys, (batch, key-value heads, time, head_dim); each head serves neighbouring query heads.
        v: values, of the shape of ``k``.
    """
    # PyTorch's forward pass is as fast; its backward pass is slow on a CPU.
    trains_on_cpu = q.device.type == "cpu" and torch.is_grad_enabled()
    if trains_on_cpu and q.size(2) in _BLOCKWISE_TIMES.get(q.dtype, ()):
        return blockwise_attention(q, k, v)
    return fused_attention(q, k, v)


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attends like ``causal_attention`` with a kernel of PyTorch; on an NVIDIA GPU with the fastest."""
    if q.device.type != "cuda":
        return _scaled_dot_product_attention(q, k, v)
    return attend_with(_kernels_of(q.device, q.dtype), q, k, v)


def attend_with(kernels: list[SDPBackend], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attends like ``causal_attention`` with the first of PyTorch's kernels that supports the inputs."""
    if kernels[0] is SDPBackend.EFFICIENT_ATTENTION:  # Up to torch 2.13 it does not support grouped heads.
        k, v = (x.repeat_interleave(q.size(1) // x.size(1), dim=1) for x in (k, v))
    with sdpa_kernel(kernels, set_priority=True):
        return _scaled_dot_product_attention(q, k, v)


def _scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.size(1) != k.size(1))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _kernels_of(device: torch.device, dtype: torch.dtype) -> list[SDPBackend]:
    return gpu_kernels(
        torch.cuda.get_device_capability(device), dtype, newest_flash=flash.in_use() is not None
    )


def gpu_kernels(
    capability: tuple[int, int], dtype: torch.dtype, *, newest_flash: bool = False
) -> list[SDPBackend]:
    """Returns PyTorch's kernels for an NVIDIA GPU of a compute capability, the fastest first.

    ``newest_flash`` is True if FlashAttention 3 or 4 replaces PyTorch's flash kernel.
    """
    if dtype not in (torch.bfloat16, torch.float16) or capability < (8, 0):
        return [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    # MATH is for heads of more than 256 channels only.
    flash_first = [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    if capability == (9, 0) and not newest_flash:
        # 1.4 times as fast there, and only there, at heads of 64 channels (https://arxiv.org/abs/2407.08608).
        return [SDPBackend.CUDNN_ATTENTION, *flash_first]
    return flash_first


def blockwise_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attends like ``causal_attention`` with plain products of a block of queries and the keys that it sees.

    PyTorch's CPU kernel also computes the masked scores of short sequences, and its backward pass gains
    nothing from bfloat16 products.
    """
    batch, heads, time, head_dim = q.shape
    groups = k.size(1)
    # The queries of heads that share keys are the rows of one matrix.
    q = (q * head_dim**-0.5).view(batch, groups, -1, time, head_dim)
    k, v = (x.flatten(0, 1) for x in (k, v))
    blocks = []
    for start in range(0, time, _BLOCK):
        end = min(start + _BLOCK, time)
        queries = q[:, :, :, start:end].reshape(batch * groups, -1, head_dim)
        hidden = torch.full((end - start, end), -torch.inf, dtype=q.dtype, device=q.device).triu(start + 1)
        # Adding the mask inside the product saves a pass over the scores, which takes as long as the product.
        scores = torch.baddbmm(hidden.repeat(heads // groups, 1), queries, k[:, :end].mT)
        probabilities = scores.softmax(-1, dtype=torch.float32).to(v.dtype)
        blocks.append(torch.bmm(probabilities, v[:, :end]).view(batch, groups, -1, end - start, head_dim))
    return torch.cat(blocks, dim=3).view(batch, heads, time, head_dim)
