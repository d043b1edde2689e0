"""From the residual stream to logits: tied or free unembedding, soft-capped."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plgolf.errors import UserError
from plgolf.model.linear import CastLinear
from plgolf.roles import Role


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Settings of the output layer.

    Args:
        tied: the embedding serves as the unembedding too; otherwise a zero-initialised matrix does.
        softcap: logits are squashed into (-softcap, softcap) by a tanh (https://arxiv.org/abs/2408.00118).
    """

    tied: bool = True
    softcap: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.softcap < math.inf:
            raise UserError(f"head.softcap must be finite and positive, got {self.softcap}")


class Head(nn.Module):
    """Scores every vocabulary entry at every position."""

    role = Role.HEAD

    def __init__(self, vocab_size: int, dim: int, config: HeadConfig) -> None:
        super().__init__()
        self.softcap = config.softcap
        self.proj = None if config.tied else CastLinear(dim, vocab_size, zero_init=True)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Maps (batch, time, dim) to float32 logits (batch, time, vocab)."""
        logits = F.linear(x, embedding.to(x.dtype)) if self.proj is None else self.proj(x)
        # Float32 from here on: a cap of 30 leaves bfloat16 steps of 1/8 near the top.
        return self.softcap * torch.tanh(logits.float() / self.softcap)
