"""What attention keeps of the positions before: each token is then one step, not the whole text again."""

from dataclasses import dataclass

import torch
from torch import Tensor


class LayerCache:
    """Keys and values of one attention layer, in memory that is allocated once.

    Args:
        shape: (batch, key-value heads, capacity, head_dim).
        like: whose dtype and device they have.
    """

    def __init__(self, shape: tuple[int, int, int, int], like: Tensor) -> None:
        self._keys, self._values = (torch.empty(shape, dtype=like.dtype, device=like.device) for _ in "kv")
        self.length = 0
        """Positions that are there."""

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Adds positions.

        Args:
            keys: (batch, key-value heads, time, head_dim), turned by their positions' angles.
            values: of the same shape.

        Returns:
            Keys and values of all positions so far, as views.
        """
        first, self.length = self.length, self.length + keys.size(2)
        self._keys[:, :, first : self.length] = keys
        self._values[:, :, first : self.length] = values
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]


@dataclass(frozen=True)
class Cache:
    """The caches of all layers, and the rotary tables for every position that they can hold.

    Args:
        layers: one each.
        tables: cosines and sines, each (capacity, head_dim / 2).
    """

    layers: list[LayerCache]
    tables: tuple[Tensor, Tensor]

    @property
    def length(self) -> int:
        """Positions that are there."""
        return self.layers[0].length

    @property
    def capacity(self) -> int:
        """Positions that there can be."""
        return self.tables[0].size(0)

    def rotary(self, time: int) -> tuple[Tensor, Tensor]:
        """Returns the tables of the next positions.

        Raises:
            ValueError: there is no room for so many.
        """
        end = self.length + time
        if end > self.capacity:
            raise ValueError(f"the cache must have room for {end} positions, got {self.capacity}")
        cos, sin = self.tables
        return cos[self.length : end], sin[self.length : end]

    def clear(self) -> None:
        """Forgets every position; the memory stays."""
        for layer in self.layers:
            layer.length = 0
