"""Assigns matrices to ranks, and gathers the ranks' updates."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch
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
    shapes: Sequence[torch.Size],
    owners: Sequence[int],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Callable[[], list[Tensor]]:
    """Starts one all-gather of the ranks' matrices, which all ranks must call together.

    Args:
        mine: this rank's matrices by index.
        shapes: shapes of all matrices.
        owners: owning rank of each matrix.
        dtype: dtype in which they are sent.
        device: where they are.

    Returns:
        A function that waits for the all-gather and returns all matrices in order, in float32.
    """
    _, world_size = ranks()
    if world_size == 1:
        return lambda: [mine[index].float() for index in range(len(shapes))]
    sizes = [0] * world_size
    offsets = []
    for shape, owner in zip(shapes, owners, strict=True):
        offsets.append(sizes[owner])
        sizes[owner] += shape.numel()
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
            everyones[owner * piece + offset :][: shape.numel()].view(shape)
            for shape, owner, offset in zip(shapes, owners, offsets, strict=True)
        ]

    return wait
