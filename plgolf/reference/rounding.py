"""Rounds tensors to int8 with one scale per row (https://github.com/openai/parameter-golf)."""

import math

import torch
from torch import Tensor

CLIP_QUANTILE = 99.99984 / 100.0
"""Quantile of a row's magnitudes above which values are clipped."""

LEVELS = 127.0
"""Largest code. -128 is not used, so that codes are symmetric."""


def quantize_int8(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds to int8, with one scale for each row of a matrix and one scale for any other tensor.

    Clips values above the clip quantile. The codes are computed with the float32 scale.

    Args:
        tensor: floating point, not empty.

    Returns:
        Codes int8 of the same shape, and the scale: float16 (rows,) for a matrix, else float32 ().

    >>> codes, scale = quantize_int8(torch.tensor([[127.0, -63.6], [0.0, 2.0]]))
    >>> codes.tolist(), scale.tolist()
    ([[127, -64], [0, 127]], [1.0, 0.0157470703125])
    """
    values = tensor.detach().float()
    magnitudes = values.abs()
    if values.ndim == 2:
        clip = clip_values(magnitudes)
        scale = (clip / LEVELS).clamp_min(1.0 / LEVELS)
        limit, step = clip[:, None], scale[:, None]
        stored = scale.to(torch.float16)
    else:
        limit = clip_values(magnitudes.flatten())
        step = torch.where(limit > 0, limit / LEVELS, torch.ones_like(limit))
        stored = step
    # In the memory of the magnitudes: allocating takes longer than these operations. torch.clamp with two
    # tensors is slower, since it is not vectorised.
    clipped = torch.minimum(values, limit, out=magnitudes)
    clipped = torch.maximum(clipped, -limit, out=magnitudes)
    codes = clipped.div_(step).round_().clamp_(-LEVELS, LEVELS).to(torch.int8)
    return codes.contiguous(), stored.contiguous()


def clip_values(magnitudes: Tensor) -> Tensor:
    """Returns the clip quantile over the last dimension, bit by bit as ``torch.quantile`` does.

    It lies between two of the largest values (the largest two for rows of up to 625,000), so that rows are
    not sorted and may be longer than ``torch.quantile`` allows.

    Args:
        magnitudes: float32 (..., n), at least 0, n at least 1.

    Returns:
        Float32 (...); NaN for a row with a NaN.

    >>> clip_values(torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, 0.5]]))
    tensor([3.0000, 0.5000])
    """
    last = magnitudes.size(-1) - 1
    # In float32, as in torch.quantile: the rank in float64, and so the value, differs.
    rank = (torch.tensor(CLIP_QUANTILE, dtype=torch.float32) * last).item()
    below, above = math.floor(rank), math.ceil(rank)
    largest = magnitudes.topk(last - below + 1).values
    clip = largest[..., last - below].lerp(largest[..., last - above], rank - below)
    # topk puts NaN first, which may be above both values.
    return torch.where(largest[..., 0].isnan(), largest[..., 0], clip)


def dequantize_int8(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Restores the values of ``quantize_int8``: ``codes * scale``, multiplied in float32 and then cast."""
    shape = (-1,) + (1,) * (codes.ndim - 1) if scale.ndim else ()
    return (codes.float() * scale.float().view(shape)).to(dtype).contiguous()
