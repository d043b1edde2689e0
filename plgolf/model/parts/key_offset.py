"""Keys that look one position back (partial key offset, https://github.com/KellerJordan/modded-nanogpt)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from plgolf.errors import UserError
from plgolf.model.context import Context, previous
from plgolf.model.parts.ports import KeyPart, PartConfig, Shape


@dataclass(frozen=True, kw_only=True)
class KeyOffsetConfig(PartConfig):
    """Settings of the offset, with which one layer can attend to what followed an equal token.

    Args:
        layers: layers that have it.
        channels: number of the last channels of each key that are the previous position's; null for all
            that do not turn with the position (``attention.rotary_dims``).
        bos_id: id of the token that begins a document, which keeps its own key; null for none.
    """

    layers: str = "all"
    channels: int | None = None
    bos_id: int | None = None

    def check(self, shape: Shape) -> None:
        still = shape.head_dim - shape.rotary_dims
        if not still:
            raise UserError("channels must not turn with the position: attention.rotary_dims must be set")
        if self.channels is not None and not 1 <= self.channels <= still:
            rule = f"from 1 to {still}, those that do not turn with the position"
            raise UserError(f"channels must be {rule}, got {self.channels}")
        if self.bos_id is not None and not 0 <= self.bos_id < shape.vocab_size:
            raise UserError(f"bos_id must be from 0 to {shape.vocab_size - 1}, got {self.bos_id}")

    def build(self, shape: Shape) -> "KeyOffset":
        return KeyOffset(self.channels or shape.head_dim - shape.rotary_dims, self.bos_id)


class KeyOffset(KeyPart):
    """Takes the last channels of each key from the position before; the first position keeps its own."""

    def __init__(self, channels: int, bos_id: int | None) -> None:
        super().__init__()
        self.channels, self.bos_id = channels, bos_id

    def forward(self, k: Tensor, context: Context, slot: int) -> Tensor:
        turning, own = k.tensor_split([k.size(-1) - self.channels], dim=-1)
        before = previous(own, context.memory, f"key_offset.{slot}", first=None)
        if self.bos_id is not None:
            before = torch.where((context.tokens == self.bos_id)[..., None, None], own, before)
        return torch.cat((turning, before), -1)
