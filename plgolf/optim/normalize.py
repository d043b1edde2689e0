"""Evens out the rows or columns of orthogonalised updates (NorMuon); imported where a recipe asks for it.

NorMuon (https://arxiv.org/abs/2510.05491) divides each row, the weights of one neuron, by the root of its
mean square over recent steps. The norm of the update stays as it was: the paper instead sets it to a constant
of its own, which belongs to the learning rate here.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from plgolf.errors import UserError
from plgolf.optim.config import MuonConfig

_MOMENTS = "second_moment"
_LEAST = 1e-10


def check_normalize(by: str) -> None:
    """Raises a UserError unless updates can be normalised by this."""
    if by not in ("rows", "shorter"):
        raise UserError(f"normalize must be none, rows or shorter, got {by!r:.100}")


def normalization(config: MuonConfig, states: Sequence[dict[str, Tensor]]) -> Callable[[Tensor], Tensor]:
    """Returns the stage for a stack.

    Args:
        config: has the direction of the normalisation and the decay of second moments.
        states: of the parameters in the stack, in order, each of which may be several matrices of it; their
            second moments, float32 (matrices, rows, 1) or (matrices, 1, cols), begin at 0 and are changed.
    """

    def stage(stack: Tensor) -> Tensor:
        rows, cols = stack.shape[1:]
        dim = -2 if config.normalize == "shorter" and rows < cols else -1
        shape = (len(stack) // len(states), *((rows, 1) if dim == -1 else (1, cols)))
        for state in states:
            if _MOMENTS not in state or state[_MOMENTS].shape != shape:
                state[_MOMENTS] = torch.zeros(shape, device=stack.device)
        moments = torch.cat([state[_MOMENTS] for state in states])
        stack, moments = normalized(stack, moments, beta=config.normalize_beta)
        for state, own in zip(states, moments.chunk(len(states)), strict=True):
            state[_MOMENTS].copy_(own)
        return stack

    return stage


def normalized(stack: Tensor, moments: Tensor, *, beta: float) -> tuple[Tensor, Tensor]:
    """Divides rows or columns by the root of their mean square over recent steps; keeps each matrix's norm.

    Args:
        stack: (count, rows, cols), floating point.
        moments: moving averages of the mean squares, (count, rows, 1) or (count, 1, cols).
        beta: share of the moments that stays.

    Returns:
        The stack, and the moments with this step's.
    """
    dim = -1 if moments.size(-1) == 1 else -2
    x = stack.to(moments.dtype)
    moments = moments.lerp(x.square().mean(dim, keepdim=True), 1 - beta)
    scaled = x * moments.clamp_min(_LEAST).rsqrt()
    norm, after = (torch.linalg.vector_norm(each, dim=(-2, -1), keepdim=True) for each in (x, scaled))
    return (scaled * (norm / after.clamp_min(_LEAST))).to(stack.dtype), moments
