"""Muon's updates of a group of matrices: momentum, then stages on stacks of matrices of one shape.

Stages are pure functions; what momentum and stages remember is in the optimizer's state
(https://kellerjordan.github.io/posts/muon/).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from plgolf.optim.config import MuonConfig
from plgolf.optim.orthogonalize import orthogonalize

Stage = Callable[[Tensor], Tensor]
"""Function of a stack (count, rows, cols), which treats each matrix alone."""
State = dict[str, Tensor]
"""What the optimizer remembers about a matrix, by name."""


def direction(
    config: MuonConfig, *, dtype: torch.dtype, fused: bool, states: Sequence[State] = ()
) -> list[Stage]:
    """Returns the stages from momentum to update, in order.

    Args:
        config: polynomial, number of iterations, and how updates are equalized and normalised.
        dtype: dtype of the stages.
        fused: True for few kernels over all matrices, as a GPU needs, and updates in float32 with the layout
            of the parameters, which lets one kernel apply all of them; False for what suits the cache of a
            CPU. The two round differently.
        states: of the parameters in the stack, in order; stages that remember something change them.
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
    stages.append(partial(orthogonalize, **polynomial, steps=steps, dtype=dtype, fused=fused))
    if config.normalize != "none":
        from plgolf.optim.normalize import normalization  # noqa: PLC0415 (packed where it is used)

        stages.append(normalization(config, states))
    return [*stages, _scaled, _like_params] if fused else [*stages, _scaled]


def muon_updates(
    grads: Mapping[int, Tensor],
    states: Mapping[int, State],
    config: MuonConfig,
    group: Mapping[str, Any],
    *,
    fused: bool = False,
) -> dict[int, Tensor]:
    """Computes the updates of many matrices, before the learning rate, and advances their states.

    Args:
        grads: gradients, (rows, cols) each, by index in the group.
        states: states by the same indices.
        config: Muon's settings.
        group: the optimizer's group, with the step's ``momentum``.
        fused: see ``direction``.

    Returns:
        Updates by index.
    """
    if not grads:  # A rank may own no matrices.
        return {}
    remembered = [states[index] for index in grads]
    if config.mixture or config.momentum_dtype != "float32":
        from plgolf.optim.momentum import directions  # noqa: PLC0415 (packed where it is used)

        found = directions([*grads.values()], remembered, config, group)
    else:
        for state, grad in zip(remembered, grads.values(), strict=True):
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(grad)
        buffers = [state["momentum_buffer"] for state in remembered]
        found = nesterov([*grads.values()], buffers, group["momentum"])
    blocks: Mapping[int, int] = {}
    if config.heads:
        from plgolf.optim.heads import blocks_of  # noqa: PLC0415 (packed where it is used)

        blocks = blocks_of(group, config.heads)

    def stages_of(indices: Sequence[int]) -> list[Stage]:
        dtype, owned = getattr(torch, config.newton_schulz_dtype), [states[index] for index in indices]
        return direction(config, dtype=dtype, fused=fused, states=owned)

    return in_stacks(dict(zip(grads, found, strict=True)), stages_of, blocks)


def nesterov(grads: list[Tensor], buffers: list[Tensor], momentum: float) -> list[Tensor]:
    """Advances momentum buffers in place and returns the directions of Nesterov's variant."""
    torch._foreach_mul_(buffers, momentum)
    torch._foreach_add_(buffers, grads)
    return list(torch._foreach_add(grads, buffers, alpha=momentum))


def in_stacks(
    matrices: Mapping[int, Tensor],
    stages_of: Callable[[Sequence[int]], Sequence[Stage]],
    blocks: Mapping[int, int] = {},
) -> dict[int, Tensor]:
    """Applies stages to many matrices (rows, cols) by index, those of one shape as one stack.

    Stacks save a GPU launches, and halve a CPU's time for small matrices. The results equal those of one
    matrix at a time, on a CPU to the bit.

    Args:
        matrices: matrices by index.
        stages_of: returns the stages of the stack with these indices.
        blocks: number of blocks of rows, by index; the stages treat each block as a matrix. 1 if missing.
    """
    stacks: dict[tuple[torch.Size, int], list[int]] = {}
    for index, x in matrices.items():
        stacks.setdefault((x.shape, blocks.get(index, 1)), []).append(index)
    results: dict[int, Tensor] = {}
    for (shape, count), indices in stacks.items():
        stack = torch.stack([matrices[index] for index in indices])
        if count > 1:
            stack = stack.view(-1, shape[0] // count, shape[1])
        for stage in stages_of(indices):
            stack = stage(stack)
        results.update(zip(indices, stack if count == 1 else stack.reshape(-1, *shape), strict=True))
    return results


def _scaled(stack: Tensor) -> Tensor:
    """Scales (count, rows, cols) by sqrt(max(1, rows / cols)): outputs then change equally for any shape."""
    larger: float = max(1.0, stack.size(1) / stack.size(2)) ** 0.5
    return stack * larger


def _like_params(stack: Tensor) -> Tensor:
    return stack.to(torch.float32, memory_format=torch.contiguous_format)
