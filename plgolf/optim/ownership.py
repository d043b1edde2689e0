"""Assigns matrices to ranks, and gathers the ranks' updates and states."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from plgolf.distributed import all_gather_tensor, ranks


def _newton_schulz_cost(shape: torch.Size) -> int:
    short, long = sorted(shape)
    return short * short * (2 * long + short)


@lru_cache(maxsize=64)
def assign_owners(shapes: tuple[torch.Size, ...], world_size: int) -> tuple[int, ...]:
    """Returns the owning rank of each matrix, so that all ranks have about the same Newton-Schulz work.

    >>> assign_owners((torch.Size([64, 64]), torch.Size([8, 8]), torch.Size([8, 8])), world_size=2)
    (0, 1, 1)
    """
    load = [0] * world_size
    owners = [0] * len(shapes)
    # Largest first, each to the least loaded rank. Sorting is stable, so all ranks agree.
    for index in sorted(range(len(shapes)), key=lambda i: -_newton_schulz_cost(shapes[i])):
        owner = load.index(min(load))
        owners[index] = owner
        load[owner] += _newton_schulz_cost(shapes[index])
    return tuple(owners)


def gather_updates(
    mine: Mapping[int, Tensor],
    shapes: Mapping[int, torch.Size],
    owners: Sequence[int],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Callable[[], list[Tensor]]:
    """Starts one all-gather of the ranks' matrices, which all ranks must call together.

    Args:
        mine: this rank's matrices by index.
        shapes: shapes of all matrices that are sent, by index.
        owners: owning rank of each index.
        dtype: dtype in which they are sent.
        device: where they are.

    Returns:
        A function that waits for the all-gather and returns all matrices in order, in float32.
    """
    _, world_size = ranks()
    if world_size == 1:
        return lambda: [mine[index].float() for index in shapes]
    sizes, offsets = [0] * world_size, dict[int, int]()
    for index, shape in shapes.items():
        offsets[index] = sizes[owners[index]]
        sizes[owners[index]] += shape.numel()
    # An all-gather needs pieces of equal size; with balanced owners the padding is small.
    piece = max(sizes)
    sent = torch.zeros(piece, dtype=dtype, device=device)
    for index, result in mine.items():
        sent[offsets[index] : offsets[index] + result.numel()] = result.flatten()
    received = torch.empty(world_size * piece, dtype=dtype, device=device)
    work = all_gather_tensor(received, sent, async_op=True)

    def wait() -> list[Tensor]:
        work.wait()
        everyones = received.float()
        return [
            everyones[owners[index] * piece + offsets[index] :][: shape.numel()].view(shape)
            for index, shape in shapes.items()
        ]

    return wait


def gather_states(
    states: MutableMapping[Tensor, Any], params: Sequence[Tensor], owners: Sequence[int]
) -> None:
    """Copies what owners remember about their matrices to rank 0; all ranks must call this together.

    Args:
        states: tensors by name, by matrix.
        params: the matrices.
        owners: owning rank of each.
    """
    rank, world_size = ranks()
    mine = [states.get(p, {}) if owner == rank else {} for p, owner in zip(params, owners, strict=True)]
    layouts: list[Any] = [None] * world_size
    layout = [{name: (value.shape, value.dtype) for name, value in state.items()} for state in mine]
    dist.all_gather_object(layouts, layout)
    for index, (p, owner) in enumerate(zip(params, owners, strict=True)):
        for name, (shape, dtype) in layouts[owner][index].items():
            value = mine[index].get(name)
            value = torch.empty(shape, dtype=dtype, device=p.device) if value is None else value
            dist.broadcast(value, src=owner)
            if rank == 0:
                states[p][name] = value
