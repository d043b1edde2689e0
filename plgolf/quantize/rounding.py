"""Rounding tensors to eight bits, a scale for each row (https://github.com/openai/parameter-golf)."""

import torch
from torch import Tensor

CLIP_QUANTILE = 99.99984 / 100.0
"""The share of a row's magnitudes that is kept without clipping."""

LEVELS = 127.0
"""Largest code; -128 is not used, so that codes are symmetric."""


def quantize_int8(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds to int8, with one scale for each row of a matrix and one for any other tensor.

    Values beyond the clip quantile saturate. The codes are computed with the float32 scale.

    Args:
        tensor: floating point, not empty.

    Returns:
        Codes int8 of the same shape, and the scale: float16 (rows,) for a matrix, else float32 ().

    >>> codes, scale = quantize_int8(torch.tensor([[127.0, -63.6], [0.0, 2.0]]))
    >>> codes.tolist(), scale.tolist()
    ([[127, -64], [0, 127]], [1.0, 0.0157470703125])
    """
    values = tensor.float()
    if values.ndim == 2:
        clip = torch.quantile(values.abs(), CLIP_QUANTILE, dim=1)
        scale = (clip / LEVELS).clamp_min(1.0 / LEVELS)
        limit, step = clip[:, None], scale[:, None]
        stored = scale.to(torch.float16)
    else:
        limit = torch.quantile(values.abs().flatten(), CLIP_QUANTILE)
        step = torch.where(limit > 0, limit / LEVELS, torch.ones_like(limit))
        stored = step
    clipped = torch.maximum(torch.minimum(values, limit), -limit)
    codes = torch.clamp(torch.round(clipped / step), -LEVELS, LEVELS).to(torch.int8)
    return codes.contiguous(), stored.contiguous()


def dequantize_int8(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Undoes ``quantize_int8`` up to rounding.

    Args:
        codes: int8.
        scale: (rows,) or ().
        dtype: of the result.

    Returns:
        ``codes * scale``, multiplied in float32 and then cast.

    >>> dequantize_int8(torch.tensor([[2, -3]], dtype=torch.int8), torch.tensor([0.5]), torch.float32)
    tensor([[ 1.0000, -1.5000]])
    """
    shape = (-1,) + (1,) * (codes.ndim - 1) if scale.ndim else ()
    return (codes.float() * scale.float().view(shape)).to(dtype).contiguous()
