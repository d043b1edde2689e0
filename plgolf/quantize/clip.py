"""Limits of rows: the magnitude above which a row's values are clipped."""

import math

import torch
from torch import Tensor


def quantile_limits(rows: Tensor, quantile: float) -> Tensor:
    """Returns a quantile of the magnitudes of each row, as ``torch.quantile`` computes it.

    It lies between two of the largest values, so rows are not sorted and may be of any length.

    Args:
        rows: float32 (rows, columns), with at least one column.
        quantile: from 0 to 1; 1 is the maximum.

    Returns:
        Float32 (rows,).

    >>> quantile_limits(torch.tensor([[3.0, -1.0, 2.0], [0.0, 0.0, -0.5]]), 0.75)
    tensor([2.5000, 0.2500])
    """
    last = rows.size(1) - 1
    # In float32, as in torch.quantile: the rank in float64, and so the value, differs.
    rank = (torch.tensor(quantile, dtype=torch.float32) * last).item()
    below, above = math.floor(rank), math.ceil(rank)
    largest = rows.abs().topk(last - below + 1).values
    return largest[:, last - below].lerp(largest[:, last - above], rank - below)


def sigma_limits(rows: Tensor, sigmas: float) -> Tensor:
    """Returns a multiple of the standard deviation of each row, with n - 1; 0 for rows of one value.

    Args:
        rows: float32 (rows, columns), with at least one column.
        sigmas: the factor.

    Returns:
        Float32 (rows,).
    """
    if rows.size(1) == 1:
        return torch.zeros(rows.size(0))
    return sigmas * rows.std(1)
