"""Other memories of gradients than one float32 buffer; imported where a recipe asks for them.

A mixture weights several moving averages m of different decays in place of one: bi-Maxwell momentum
(https://github.com/KellerJordan/modded-nanogpt/pull/340) has two, K-Maxwell momentum
(https://github.com/KellerJordan/modded-nanogpt/pull/357) eight, whose weights change over the run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plgolf.errors import UserError
from plgolf.optim.config import MuonConfig

_BUFFER = "momentum_buffer"
State = dict[str, Tensor]


def check_momentum(config: MuonConfig) -> None:
    """Raises a UserError unless the memories of gradients fit together."""
    if not config.mixture:
        return
    if config.momentum_dtype != "float32":
        raise UserError(f"momentum_dtype must be float32 with a mixture, got {config.momentum_dtype}")
    for i, (decay, *weights) in enumerate(config.mixture):
        if not 0 <= decay < 1:
            raise UserError(f"mixture.{i}.0 must be at least 0 and below 1, got {decay}")
        for k, weight in enumerate(weights, start=1):
            if not 0 <= weight <= 1:
                raise UserError(f"mixture.{i}.{k} must be from 0 to 1, got {weight}")
    for k in (1, 2):
        total = sum(row[k] for row in config.mixture)
        if abs(total - 1) > 1e-6:
            raise UserError(f"mixture must have weights that add up to 1, got {total:.6g}")


def directions(
    grads: list[Tensor], states: Sequence[State], config: MuonConfig, group: Mapping[str, Any]
) -> list[Tensor]:
    """Advances the memories of gradients and returns the directions of Nesterov's variant.

    Args:
        grads: float32 (rows, cols) each.
        states: states of these parameters, which are changed.
        config: Muon's settings.
        group: has the step's ``momentum``, the number of this step, from 1, as ``step``, and what is left
            of the first weights of a mixture as ``mixture``.
    """
    momentum, dtype = group["momentum"], getattr(torch, config.momentum_dtype)
    if config.mixture and group["step"] > config.mixture_start + 1:
        return _mixed(grads, states, config, group)
    found = []
    for state, grad in zip(states, [grad.to(dtype) for grad in grads], strict=True):
        if _BUFFER not in state:
            state[_BUFFER] = torch.zeros_like(grad)
        # A checkpoint is loaded in the dtype of the parameters. No foreach: it rounds factors on a CPU.
        buffer = state[_BUFFER] = state[_BUFFER].to(dtype)
        found.append(grad.add(buffer.mul_(momentum).add_(grad), alpha=momentum))
    return found


def _mixed(
    grads: list[Tensor], states: Sequence[State], config: MuonConfig, group: Mapping[str, Any]
) -> list[Tensor]:
    momentum, first = group["momentum"], group.get("mixture", 1.0)
    for state, grad in zip(states, grads, strict=True):
        before = state.pop(_BUFFER, None)
        for k in range(len(config.mixture)):
            if before is not None:
                # An average from then on; the buffer is a sum, 1 / (1 - momentum) times as large.
                state[f"average_{k}"] = before * (1 - momentum)
            elif f"average_{k}" not in state:
                state[f"average_{k}"] = torch.zeros_like(grad)
    mixed = [torch.zeros_like(grad) for grad in grads]
    for k, (decay, start, end) in enumerate(config.mixture):
        averages = [state[f"average_{k}"] for state in states]
        torch._foreach_lerp_(averages, grads, 1 - decay)
        torch._foreach_add_(mixed, averages, alpha=first * start + (1 - first) * end)
    return list(torch._foreach_lerp(grads, mixed, momentum))
