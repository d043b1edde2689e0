"""Key-value cache: generating a token then costs one position, not the whole text again."""

from dataclasses import dataclass

import torch
from torch import Tensor

from plgolf.errors import UserError


class LayerCache:
    """Keys and values of one attention layer, in memory that is allocated once.

    Args:
        shape: (batch, key-value heads, capacity, head_dim).
        like: a tensor with the dtype and device to use.
    """

    def __init__(self, shape: tuple[int, int, int, int], like: Tensor) -> None:
        self._keys, self._values = (torch.empty(shape, dtype=like.dtype, device=like.device) for _ in "kv")
        self.batch, self.length = shape[0], 0
        """Numbers of sequences and of cached positions."""

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Appends positions (batch, heads, time, head_dim), and returns views of all keys and values.

        ``Cache.rotary`` has checked that they fit.
        """
        first, self.length = self.length, self.length + keys.size(2)
        self._keys[:, :, first : self.length] = keys
        self._values[:, :, first : self.length] = values
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]


@dataclass(frozen=True)
class Cache:
    """The caches of all layers, and the rotary tables of all positions that fit.

    Args:
        layers: one cache per layer.
        tables: cosines and sines, each (capacity, head_dim / 2).
    """

    layers: list[LayerCache]
    tables: tuple[Tensor, Tensor]

    @property
    def length(self) -> int:
        """Number of cached positions."""
        return self.layers[0].length

    def check_batch(self, batch: int) -> None:
        """Raises a UserError unless the cache is for this number of sequences."""
        if batch != self.layers[0].batch:
            raise UserError(f"input_ids must have the cache's {self.layers[0].batch} sequences, got {batch}")

    def rotary(self, time: int) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines of the next positions, each (time, head_dim / 2), if they have room."""
        end, (cos, sin) = self.length + time, self.tables
        if end > len(cos):
            raise UserError(f"the cache must have room for {end} positions, got {len(cos)}")
        return cos[self.length : end], sin[self.length : end]

    def clear(self) -> None:
        """Removes all positions and keeps the memory."""
        for layer in self.layers:
            layer.length = 0
