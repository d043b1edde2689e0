"""An embedding of each pair of neighbouring tokens, by a hash (record 2026-03-22)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plgolf.config import newer
from plgolf.errors import UserError
from plgolf.model.context import Context, previous
from plgolf.model.linear import CastLinear
from plgolf.model.parts.ports import InputPart, PartConfig, Shape, StreamPart, Table, check_gain

_MAX_SIZE, _NAME = 2**20, "bigram_hash"


@dataclass(frozen=True, kw_only=True)
class BigramHashConfig(PartConfig):
    """Settings of the embedding of token pairs.

    Args:
        buckets: number of rows; pairs share all but the last, which is the first position's.
        dim: width of a row, which is projected to the model's width unless it is the same.
        scale: initial value of the learned factor.
        gain: factor on the initial values of the projection.
        signs: number of rows of fixed random signs, 1 or -1, which multiply the rows: pairs that share a row
            are then told apart (https://github.com/KellerJordan/modded-nanogpt); null for none.
        layers: layers to whose input the rows are added too; null for none.
        layer_scale: initial value of the learned factor of each of these layers.
    """

    buckets: int = 2048
    dim: int = 128
    scale: float = 0.05
    gain: float = newer(1.0)
    signs: int | None = newer(None)
    layers: str | None = newer(None)
    layer_scale: float = newer(0.05)

    def check(self, shape: Shape) -> None:
        if not 2 <= self.buckets <= _MAX_SIZE:
            raise UserError(f"buckets must be from 2 to {_MAX_SIZE}, got {self.buckets}")
        if not 1 <= self.dim <= shape.dim:
            raise UserError(f"dim must be from 1 to the model's width {shape.dim}, got {self.dim}")
        check_gain(self.gain, self.dim, shape.dim)
        if not self.scale:
            raise UserError("scale must not be 0, at which nothing would be learned, got 0")
        if self.signs is not None and not 2 <= self.signs <= _MAX_SIZE:
            raise UserError(f"signs must be from 2 to {_MAX_SIZE}, got {self.signs}")
        if not (math.isfinite(self.layer_scale) and self.layer_scale):
            raise UserError(f"layer_scale must be finite and not 0, got {self.layer_scale}")

    def build(self, shape: Shape) -> "BigramHash":
        return BigramHash(shape, self)

    def in_layer(self, shape: Shape) -> "LayerBigrams":
        return LayerBigrams(self.layer_scale)


class BigramHash(InputPart):
    """Adds a row of a table for the token and its predecessor; the table is 0 at the start."""

    def __init__(self, shape: Shape, config: BigramHashConfig) -> None:
        super().__init__()
        self.embedding = Table(config.buckets, config.dim, std=0.0)
        self.proj = None if config.dim == shape.dim else CastLinear(config.dim, shape.dim, gain=config.gain)
        self.scale = nn.Parameter(torch.tensor(config.scale))
        self.signs = config.signs

    def buckets(self, tokens: Tensor, before: Tensor) -> Tensor:
        """Returns the rows of tokens and their predecessors, which are -1 at the first position."""
        hashed = (36313 * tokens) ^ (27191 * before)
        # As in 32 bits, where products of large ids wrap around.
        hashed = (hashed + 2**31) % 2**32 - 2**31
        shared = self.embedding.num_embeddings - 1
        return torch.where(before < 0, shared, hashed % shared)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        tokens = context.tokens.long()
        before = previous(tokens, context.memory, _NAME, first=-1)
        y: Tensor = self.embedding(self.buckets(tokens, before))
        if self.signs is not None:
            y = y * signs((tokens ^ before) % self.signs, y.size(-1)).to(y.dtype)
        y = y if self.proj is None else self.proj(y)
        if context.shared is not None:
            context.shared[_NAME] = y
        return x + self.scale.to(x.dtype) * y


class LayerBigrams(StreamPart):
    """Adds the rows to the input of a layer."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if context.shared is None:
            raise ValueError("the context must have the rows of the table")
        return x + self.scale.to(x.dtype) * context.shared[_NAME]


def signs(rows: Tensor, channels: int) -> Tensor:
    """Returns the same random signs, int64 1 or -1 (..., channels), for each row number, int64 (...).

    They are hashes of row and channel, which take no memory and are the same on every machine.

    >>> signs(torch.tensor([0, 1, 0]), 6).tolist()
    [[-1, -1, 1, -1, -1, -1], [-1, -1, 1, 1, 1, -1], [-1, -1, 1, -1, -1, -1]]
    """
    mixed = rows.unsqueeze(-1) * channels + torch.arange(1, channels + 1, device=rows.device)
    mixed = mixed % 2**32
    for _ in range(2):
        mixed = ((mixed >> 16) ^ mixed) * 0x45D9F3B % 2**32
    return 1 - 2 * ((mixed >> 16) & 1)
