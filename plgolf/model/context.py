"""What a layer and a part may read besides the residual stream, and where parts plug in."""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

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
        shared: what a part of the input has computed for later parts, by the part's name.
    """

    tokens: Tensor
    x0: Tensor
    rotary: tuple[Tensor, Tensor]
    values: Tensor | None = None
    segments: tuple[Tensor, int | None] | None = None
    memory: "Memory | None" = None
    shared: dict[str, Tensor] | None = None


class Port(nn.ModuleDict):
    """The parts at one place of the model, by name, in the order of application."""

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        """Returns ``x`` after all parts, which read ``others`` too."""
        for part in self.values():
            x = part(x, *others)
        return x


def previous(x: Tensor, memory: "Memory | None", key: str, *, first: float | None = 0) -> Tensor:
    """Returns each position's predecessor, in training and in generation.

    Args:
        x: a tensor (batch, time, ...).
        memory: of generation; None in training.
        key: names the tensor, different from all others of the model.
        first: value of the position before the first; None for the first position's own.
    """
    before = memory.rows.get(key) if memory is not None else None
    if before is None:
        before = x[:, :1] if first is None else torch.full_like(x[:, :1], first)
    if memory is not None:
        memory.rows[key] = x[:, -1:].clone()
    return torch.cat((before, x[:, :-1]), dim=1)
