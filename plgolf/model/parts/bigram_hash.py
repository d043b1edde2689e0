"""An embedding of each pair of neighbouring tokens, by a hash (record 2026-03-22)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plgolf.config import newer
from plgolf.errors import UserError
from plgolf.model.context import Context, previous
from plgolf.model.linear import CastLinear
from plgolf.model.parts.ports import InputPart, PartConfig, Shape, Table, check_gain

_MAX_SIZE = 2**20


@dataclass(frozen=True, kw_only=True)
class BigramHashConfig(PartConfig):
    """Settings of the embedding of token pairs.

    Args:
        buckets: number of rows; pairs share all but the last, which is the first position's.
        dim: width of a row, which is projected to the model's width unless it is the same.
        scale: initial value of the learned factor.
        gain: factor on the initial values of the projection.
    """

    buckets: int = 2048
    dim: int = 128
    scale: float = 0.05
    gain: float = newer(1.0)

    def check(self, shape: Shape) -> None:
        if not 2 <= self.buckets <= _MAX_SIZE:
            raise UserError(f"buckets must be from 2 to {_MAX_SIZE}, got {self.buckets}")
        if not 1 <= self.dim <= shape.dim:
            raise UserError(f"dim must be from 1 to the model's width {shape.dim}, got {self.dim}")
        check_gain(self.gain, self.dim, shape.dim)
        if not self.scale:
            raise UserError("scale must not be 0, at which nothing would be learned, got 0")

    def build(self, shape: Shape) -> "BigramHash":
        return BigramHash(shape, self)


class BigramHash(InputPart):
    """Adds a row of a table for the token and its predecessor; the table is 0 at the start."""

    def __init__(self, shape: Shape, config: BigramHashConfig) -> None:
        super().__init__()
        self.embedding = Table(config.buckets, config.dim, std=0.0)
        self.proj = None if config.dim == shape.dim else CastLinear(config.dim, shape.dim, gain=config.gain)
        self.scale = nn.Parameter(torch.tensor(config.scale))

    def buckets(self, tokens: Tensor, before: Tensor) -> Tensor:
        """Returns the rows of tokens and their predecessors, which are -1 at the first position."""
        hashed = (36313 * tokens) ^ (27191 * before)
        # As in 32 bits, where products of large ids wrap around.
        hashed = (hashed + 2**31) % 2**32 - 2**31
        shared = self.embedding.num_embeddings - 1
        return torch.where(before < 0, shared, hashed % shared)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        tokens = context.tokens.long()
        before = previous(tokens, context.memory, "bigram_hash", first=-1)
        y: Tensor = self.embedding(self.buckets(tokens, before))
        y = y if self.proj is None else self.proj(y)
        return x + self.scale.to(x.dtype) * y
