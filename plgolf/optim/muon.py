"""Muon's updates of a group of matrices: momentum, then stages on stacks of matrices of one shape.

Everything here is a pure function but for the momentum buffers (https://kellerjordan.github.io/posts/muon/).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from plgolf.optim.config import MuonConfig
from plgolf.optim.orthogonalize import orthogonalize

Stage = Callable[[Tensor], Tensor]
"""Pure function of a stack (count, rows, cols), which treats each matrix alone."""


def direction(config: MuonConfig, *, dtype: torch.dtype, fused: bool) -> list[Stage]:
    """Returns the stages from momentum to update, in order.

    Args:
        config: polynomial, number of iterations, and how updates are equalized.
        dtype: dtype of the stages.
        fused: True for few kernels over all matrices, as a GPU needs, and updates in float32 with the layout
            of the parameters, which lets one kernel apply all of them; False for what suits the cache of a
            CPU. The two round differently.
    """
    stages: list[Stage] = []
    polynomial: dict[str, Any] = {}
    if config.equalize != "none":
        from plgolf.optim.equalize import equalized  # noqa: PLC0415 (packed where it is used)

        stages.append(partial(equalized, dtype=dtype))
    if config.polynomial != "quintic":
        from plgolf.optim.polynomials import polynomial_settings  # noqa: PLC0415 (packed where it is used)

        polynomial = polynomial_settings(config.polynomial, config.newton_schulz_steps)
    steps = config.newton_schulz_steps
    stages += [partial(orthogonalize, **polynomial, steps=steps, dtype=dtype, fused=fused), _scaled]
    return [*stages, _like_params] if fused else stages


def muon_updates(
    grads: Mapping[int, Tensor],
    buffers: Mapping[int, Tensor],
    *,
    momentum: float,
    stages: Sequence[Stage],
) -> dict[int, Tensor]:
    """Computes the updates of many matrices, before the learning rate, and advances their momentum in place.

    Args:
        grads: gradients, (rows, cols) each, by any key.
        buffers: momentum of the same shapes by the same keys.
        momentum: share of a buffer that stays.
        stages: from ``direction``.

    Returns:
        Updates by key.
    """
    directions = nesterov(list(grads.values()), [buffers[key] for key in grads], momentum)
    return in_stacks(dict(zip(grads, directions, strict=True)), stages)


def nesterov(grads: list[Tensor], buffers: list[Tensor], momentum: float) -> list[Tensor]:
    """Advances momentum buffers in place and returns the directions of Nesterov's variant."""
    if not grads:  # A rank may own no matrices.
        return []
    torch._foreach_mul_(buffers, momentum)
    torch._foreach_add_(buffers, grads)
    return list(torch._foreach_add(grads, buffers, alpha=momentum))


def in_stacks(matrices: Mapping[int, Tensor], stages: Sequence[Stage]) -> dict[int, Tensor]:
    """Applies stages to many matrices (rows, cols) by key, those of one shape as one stack.

    Stacks save a GPU launches, and halve a CPU's time for small matrices. The results equal those of one
    matrix at a time, on a CPU to the bit.
    """
    by_shape: dict[torch.Size, list[int]] = {}
    for key, x in matrices.items():
        by_shape.setdefault(x.shape, []).append(key)
    results: dict[int, Tensor] = {}
    for keys in by_shape.values():
        stack = torch.stack([matrices[key] for key in keys])
        for stage in stages:
            stack = stage(stack)
        results.update(zip(keys, stack, strict=True))
    return results


def _scaled(stack: Tensor) -> Tensor:
    """Scales (count, rows, cols) by sqrt(max(1, rows / cols)): outputs then change equally for any shape."""
    larger: float = max(1.0, stack.size(1) / stack.size(2)) ** 0.5
    return stack * larger


def _like_params(stack: Tensor) -> Tensor:
    return stack.to(torch.float32, memory_format=torch.contiguous_format)
