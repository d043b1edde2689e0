"""The output layer: tied or untied unembedding with soft-capped logits."""

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
        tied: True to reuse the embedding as the unembedding; False for a zero-initialised matrix.
        softcap: a tanh limits logits to (-softcap, softcap) (https://arxiv.org/abs/2408.00118).

    Raises:
        UserError: the soft cap is not finite and positive.
    """

    tied: bool = True
    softcap: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.softcap < math.inf:
            raise UserError(f"softcap must be finite and positive, got {self.softcap}")


class Head(nn.Module):
    """Computes the logits of all token ids at every position."""

    role = Role.HEAD

    def __init__(self, vocab_size: int, dim: int, config: HeadConfig) -> None:
        super().__init__()
        self.softcap = config.softcap
        self.proj = None if config.tied else CastLinear(dim, vocab_size, zero_init=True)
        self.part: nn.Module | None = None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Computes float32 logits, (batch, time, vocab).

        Args:
            x: the normalised stream, (batch, time, dim).
            embedding: weight of the embedding, (vocab, dim), used if tied.
        """
        logits = F.linear(x, embedding.to(x.dtype)) if self.proj is None else self.proj(x)
        # Float32 from here on: near a cap of 30, bfloat16 has steps of 1/8.
        logits = logits.float()
        return self.part(logits) if self.part else self.softcap * torch.tanh(logits / self.softcap)
