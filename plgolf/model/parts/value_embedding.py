"""A token embedding that is added to attention's values (record 2026-03-22; https://arxiv.org/abs/2410.17897)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from plgolf.config import newer
from plgolf.errors import UserError
from plgolf.model.context import Context
from plgolf.model.linear import CastLinear
from plgolf.model.parts.ports import PartConfig, Shape, Table, ValuePart, ValueSource, check_gain
from plgolf.roles import Role


@dataclass(frozen=True, kw_only=True)
class ValueEmbeddingConfig(PartConfig):
    """Settings of the embedding of values.

    Args:
        layers: layers that have it; each has a factor of its own.
        dim: width of a row, which is projected to the width of the values unless it is the same.
        scale: initial value of the factor that all layers share.
        std: standard deviation of the initial table.
        gain: factor on the initial values of the projection.
        tables: ``shared`` by all layers, or each layer's ``own``.
        gate_window: number of first channels of the layer's input, and of the values of the table, on which a
            gate of each key-value head depends (https://github.com/KellerJordan/modded-nanogpt); null for
            no gates.
        gate_factor: multiplies the sigmoid of the gates, which begin at half of it.
    """

    layers: str = "last 2"
    dim: int = 128
    scale: float = 0.1
    std: float = 0.01
    gain: float = newer(1.0)
    tables: Literal["shared", "own"] = newer("shared")
    gate_window: int | None = newer(None)
    gate_factor: float = newer(2.0)

    def check(self, shape: Shape) -> None:
        if not 1 <= self.dim <= shape.dim:
            raise UserError(f"dim must be from 1 to the model's width {shape.dim}, got {self.dim}")
        if not 0 < self.std < math.inf:
            raise UserError(f"std must be finite and positive, got {self.std}")
        check_gain(self.gain, self.dim, shape.num_kv_heads * shape.head_dim)
        if not self.scale:
            raise UserError("scale must not be 0, at which nothing would be learned, got 0")
        width = shape.num_kv_heads * shape.head_dim
        if self.gate_window is not None and not 1 <= self.gate_window <= width:
            raise UserError(
                f"gate_window must be from 1 to the values' width {width}, got {self.gate_window}"
            )
        if not 0 < self.gate_factor < math.inf:
            raise UserError(f"gate_factor must be finite and positive, got {self.gate_factor}")

    def build(self, shape: Shape) -> "LayerValues":
        return LayerValues(shape, self)

    def source(self, shape: Shape) -> "ValueEmbedding | None":
        return ValueEmbedding(shape, self) if self.tables == "shared" else None


class ValueEmbedding(ValueSource):
    """The table that all layers share, or that of a layer."""

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
    """Adds values of a table with the factor of a layer, at the start 1, and gates of its heads."""

    def __init__(self, shape: Shape, config: ValueEmbeddingConfig) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.table = None if config.tables == "shared" else ValueEmbedding(shape, config)
        self.gate = None if config.gate_window is None else ValueGate(shape, config, config.gate_window)

    def forward(self, v: Tensor, context: Context, x: Tensor) -> Tensor:
        values = context.values if self.table is None else self.table(context.tokens)
        if values is None:
            raise ValueError("the context must have the values of the table")
        if self.gate is not None:
            values = self.gate(values, x)
        return v + self.scale.to(v.dtype) * values


class ValueGate(nn.Module):
    """Multiplies the values of each key-value head by a factor that depends on them and on the position."""

    role = Role.SCALAR

    def __init__(self, shape: Shape, config: ValueEmbeddingConfig, window: int) -> None:
        super().__init__()
        self.window, self.factor = window, config.gate_factor
        self.proj = CastLinear(2 * window, shape.num_kv_heads, zero_init=True)

    def forward(self, values: Tensor, x: Tensor) -> Tensor:
        """Returns gated ``values`` (batch, time, key-value width), by the input ``x`` (batch, time, dim)."""
        seen = torch.cat((x[..., : self.window], values[..., : self.window]), -1)
        gate = self.factor * torch.sigmoid(self.proj(seen)).unsqueeze(-1)
        heads: Tensor = values.view(*gate.shape[:-1], -1)
        return (heads * gate).flatten(-2)
