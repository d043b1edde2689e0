"""What a layer and a part may read besides the residual stream."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from plgolf.model.memory import Memory


class Context(NamedTuple):
    """Inputs of a forward pass that all layers share.

    Args:
        tokens: token ids, (batch, time).
        x0: what enters the first layer, (batch, time, dim); before that, the embedding.
        rotary: cosines and sines of these positions, each (time, pairs of channels).
        values: what a part has looked up for the attention values, (batch, time, key-value width), or None.
        segments: borders of the documents in packed rows, int32 (borders,), and the most tokens of one,
            None for those of the row; None for one text in each row.
        memory: earlier positions in generation; None in training.
    """

    tokens: Tensor
    x0: Tensor
    rotary: tuple[Tensor, Tensor]
    values: Tensor | None = None
    segments: tuple[Tensor, int | None] | None = None
    memory: "Memory | None" = None


def previous(x: Tensor, memory: "Memory | None", key: str, *, first: float = 0) -> Tensor:
    """Returns each position's predecessor, in training and in generation.

    Args:
        x: a tensor (batch, time, ...).
        memory: of generation; None in training.
        key: names the tensor, different from all others of the model.
        first: value of the position before the first.
    """
    before = memory.rows.get(key) if memory is not None else None
    if before is None:
        before = torch.full_like(x[:, :1], first)
    if memory is not None:
        memory.rows[key] = x[:, -1:].clone()
    return torch.cat((before, x[:, :-1]), dim=1)
