"""Exchanges values between the ranks of a process group. Outside a process group there is one rank."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

# all_gather_into_tensor is its name until torch 2.12.
all_gather_tensor = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


def ranks() -> tuple[int, int]:
    """Returns this process's rank and the number of processes; (0, 1) outside a process group."""
    if not dist.is_available() or not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def all_gather_floats(values: Tensor, known: Sequence[float] = ()) -> list[list[float]]:
    """Gathers ``[*known, *values]`` of all ranks, which must call this together; waits for the device.

    Args:
        values: floating point (n,), with the same n on every rank.
        known: Python numbers, the same count on every rank.

    Returns:
        A list of the ranks' numbers in float64.
    """
    world_size = ranks()[1]
    if world_size == 1:
        return [[*known, *values.tolist()]]
    values = torch.cat((torch.tensor(known, dtype=torch.float64, device=values.device), values.double()))
    everyones = values.new_empty(world_size * values.numel())
    all_gather_tensor(everyones, values)
    by_rank: list[list[float]] = everyones.view(world_size, -1).tolist()
    return by_rank
