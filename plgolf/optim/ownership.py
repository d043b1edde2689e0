"""Which rank works on which matrix of an optimizer, and how the others get the result."""

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
    """Picks the rank that works on each matrix so that all ranks have about the same work.

    Args:
        shapes: of the matrices.
        world_size: number of ranks.

    Returns:
        The owning rank by matrix; the same on every rank.

    >>> assign_owners((torch.Size([64, 64]), torch.Size([8, 8]), torch.Size([8, 8])), world_size=2)
    (0, 1, 1)
    """
    load = [0] * world_size
    owners = [0] * len(shapes)
    # The longest job first, each to the least loaded rank; sorting is stable, so all ranks agree.
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
    """Gives every rank the matrices of all ranks, in one all-gather that goes on in the background.

    Args:
        mine: this rank's results by index.
        shapes: of all matrices.
        owners: rank by matrix.
        dtype: of the results.
        device: where they live.

    Returns:
        What waits for it, and returns all results by index as float32.
    """
    _, world_size = ranks()
    if world_size == 1:
        return lambda: [mine[index].float() for index in range(len(shapes))]
    sizes = [0] * world_size
    offsets = []
    for shape, owner in zip(shapes, owners, strict=True):
        offsets.append(sizes[owner])
        sizes[owner] += shape.numel()
    # An all-gather wants equal pieces; with balanced owners the padding is small.
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
