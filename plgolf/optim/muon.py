"""Muon's updates of a group of matrices: momentum, orthogonalisation, scale.

Everything here is a pure function but for the momentum buffers (https://kellerjordan.github.io/posts/muon/).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from plgolf.optim.orthogonalize import orthogonalize_all


def muon_updates(
    grads: Mapping[int, Tensor],
    buffers: Mapping[int, Tensor],
    *,
    momentum: float,
    steps: int,
    dtype: torch.dtype,
    fused: bool,
) -> dict[int, Tensor]:
    """Computes the updates of many matrices, before the learning rate, and advances their momentum in place.

    Args:
        grads: gradients, (rows, cols) each, by any key.
        buffers: momentum of the same shapes by the same keys.
        momentum: share of a buffer that stays.
        steps: number of Newton-Schulz iterations.
        dtype: dtype of these iterations.
        fused: True for few kernels over all matrices, as a GPU needs; False for matrix by matrix, which suits
            the cache of a CPU. The two round differently.

    Returns:
        Updates by key, in ``dtype``; fused, in float32 with the layout of the parameters, which lets
        one kernel apply all of them.
    """
    directions = nesterov(list(grads.values()), [buffers[key] for key in grads], momentum)
    return orthogonalize_all(
        dict(zip(grads, directions, strict=True)),
        steps=steps,
        dtype=dtype,
        fused=fused,
        finish=_scaled_like_params if fused else _scaled,
    )


def nesterov(grads: list[Tensor], buffers: list[Tensor], momentum: float) -> list[Tensor]:
    """Advances momentum buffers in place and returns the directions of Nesterov's variant."""
    if not grads:  # A rank may own no matrices.
        return []
    torch._foreach_mul_(buffers, momentum)
    torch._foreach_add_(buffers, grads)
    return list(torch._foreach_add(grads, buffers, alpha=momentum))


def _scaled(stack: Tensor) -> Tensor:
    """Scales (count, rows, cols) by sqrt(max(1, rows / cols)): outputs then change equally for any shape."""
    larger: float = max(1.0, stack.size(1) / stack.size(2)) ** 0.5
    return stack * larger


def _scaled_like_params(stack: Tensor) -> Tensor:
    return _scaled(stack).to(torch.float32, memory_format=torch.contiguous_format)
