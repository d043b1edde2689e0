"""What generation keeps of earlier positions: a token then costs one position, not the whole text again."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from plgolf.errors import UserError
from plgolf.model.causal import causal_attention


class Slot:
    """Keys and values of one visit of a layer, in memory that is allocated once.

    Args:
        shape: (batch, key-value heads, capacity, head_dim).
        like: a tensor with the dtype and device to use.
    """

    def __init__(self, shape: tuple[int, int, int, int], like: Tensor) -> None:
        self._keys, self._values = (torch.empty(shape, dtype=like.dtype, device=like.device) for _ in "kv")
        self.batch, self.length = shape[0], 0
        """Numbers of sequences and of positions."""

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Appends positions (batch, heads, time, head_dim), and returns views of all keys and values.

        ``Memory.rotary`` has checked that they fit.
        """
        first, self.length = self.length, self.length + keys.size(2)
        self._keys[:, :, first : self.length] = keys
        self._values[:, :, first : self.length] = values
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Appends keys and values, and attends causally to all; shapes are those of ``causal_attention``."""
        k, v = self.extend(k, v)
        time, length = q.size(2), k.size(2)
        if time == 1:
            # The query heads of a group become rows of one product, so that their keys are read once.
            grouped = q.reshape(*k.shape[:2], -1, q.size(3))
            return F.scaled_dot_product_attention(grouped, k, v).reshape(q.shape)
        if time == length:
            return causal_attention(q, k, v)
        mask = torch.ones(time, length, dtype=torch.bool, device=q.device).tril(length - time)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.size(1) != k.size(1))


@dataclass(frozen=True)
class Memory:
    """Keys and values of all visits of layers, the rotary tables of all positions that fit, and last rows.

    Args:
        slots: one per visit of a layer, in the order of the visits.
        tables: cosines and sines, each (capacity, pairs of channels).
        rows: last position of tensors that parts need one position later, by the key of ``previous``.
    """

    slots: list[Slot]
    tables: tuple[Tensor, Tensor]
    rows: dict[str, Tensor] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of positions."""
        return self.slots[0].length

    def check_batch(self, batch: int) -> None:
        """Raises a UserError unless the memory is for this number of sequences."""
        if batch != self.slots[0].batch:
            raise UserError(f"input_ids must have the memory's {self.slots[0].batch} sequences, got {batch}")

    def rotary(self, time: int) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines of the next ``time`` positions, if they have room."""
        end, (cos, sin) = self.length + time, self.tables
        if end > len(cos):
            raise UserError(f"the memory must have room for {end} positions, got {len(cos)}")
        return cos[self.length : end], sin[self.length : end]

    def clear(self) -> None:
        """Removes all positions and keeps the allocated memory."""
        self.rows.clear()
        for slot in self.slots:
            slot.length = 0
