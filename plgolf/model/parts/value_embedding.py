"""A token embedding that is added to attention's values (record 2026-03-22; https://arxiv.org/abs/2410.17897)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plgolf.config import newer
from plgolf.errors import UserError
from plgolf.model.context import Context
from plgolf.model.linear import CastLinear
from plgolf.model.parts.ports import PartConfig, Shape, Table, ValuePart, ValueSource, check_gain


@dataclass(frozen=True, kw_only=True)
class ValueEmbeddingConfig(PartConfig):
    """Settings of the embedding of values.

    Args:
        layers: layers that have it; each has a factor of its own.
        dim: width of a row, which is projected to the width of the values unless it is the same.
        scale: initial value of the factor that all layers share.
        std: standard deviation of the initial table.
        gain: factor on the initial values of the projection.
    """

    layers: str = "last 2"
    dim: int = 128
    scale: float = 0.1
    std: float = 0.01
    gain: float = newer(1.0)

    def check(self, shape: Shape) -> None:
        if not 1 <= self.dim <= shape.dim:
            raise UserError(f"dim must be from 1 to the model's width {shape.dim}, got {self.dim}")
        if not 0 < self.std < math.inf:
            raise UserError(f"std must be finite and positive, got {self.std}")
        check_gain(self.gain, self.dim, shape.num_kv_heads * shape.head_dim)
        if not self.scale:
            raise UserError("scale must not be 0, at which nothing would be learned, got 0")

    def build(self, shape: Shape) -> "LayerValues":
        return LayerValues()

    def source(self, shape: Shape) -> "ValueEmbedding":
        return ValueEmbedding(shape, self)


class ValueEmbedding(ValueSource):
    """The table that all layers share."""

    def __init__(self, shape: Shape, config: ValueEmbeddingConfig) -> None:
        super().__init__()
        width = shape.num_kv_heads * shape.head_dim
        self.embedding = Table(shape.vocab_size, config.dim, std=config.std)
        self.proj = None if config.dim == width else CastLinear(config.dim, width, gain=config.gain)
        self.scale = nn.Parameter(torch.tensor(config.scale))

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.embedding(tokens)
        y = y if self.proj is None else self.proj(y)
        return self.scale.to(y.dtype) * y


class LayerValues(ValuePart):
    """Adds the shared values with the factor of a layer, at the start 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, v: Tensor, context: Context) -> Tensor:
        if context.values is None:
            raise ValueError("the context must have the values of the table")
        return v + self.scale.to(v.dtype) * context.values
