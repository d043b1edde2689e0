"""Equalizes an update before it is orthogonalised; imported where a recipe asks for it."""

import torch
from torch import Tensor

from plgolf.errors import UserError


def check_equalize(by: str) -> None:
    """Raises a UserError unless updates can be equalized by this."""
    if by != "rows":
        raise UserError(f"equalize must be none or rows, got {by!r:.100}")


def equalized(stack: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Divides each row by its norm, so that no row dominates the orthogonalisation.

    Called MuonEq-R in https://github.com/openai/parameter-golf/pull/1855.

    Args:
        stack: (count, rows, cols), floating point.
        dtype: dtype of the result.

    Returns:
        Same shape; rows of norm 1, or smaller where the norm was below 1e-7.
    """
    stack = stack.to(dtype)
    # Norms of bfloat16 are summed in float32.
    norms = torch.linalg.vector_norm(stack, dim=-1, keepdim=True)
    return stack.div(norms.clamp_min(1e-7))
