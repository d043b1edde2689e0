"""Subtracts the middle of the model from its end (https://github.com/KellerJordan/modded-nanogpt)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plgolf.errors import UserError
from plgolf.model.parts.ports import OutputPart, PartConfig, Shape


@dataclass(frozen=True, kw_only=True)
class BackoutConfig(PartConfig):
    """Settings of what is subtracted.

    Args:
        depth: part of the uses of layers whose result is subtracted, above 0 and below 1.
        scale: initial value of the learned factor.
    """

    depth: float = 0.5
    scale: float = 0.2

    def check(self, shape: Shape) -> None:
        if not 0 < self.depth < 1:
            raise UserError(f"depth must be above 0 and below 1, got {self.depth}")
        if not math.isfinite(self.scale):
            raise UserError(f"scale must be finite, got {self.scale}")

    def build(self, shape: Shape) -> "Backout":
        return Backout(self)


class Backout(OutputPart):
    """Subtracts the stream after a part of the layers, so that the head need not read what only they use."""

    def __init__(self, config: BackoutConfig) -> None:
        super().__init__()
        self.depth = config.depth
        self.scale = nn.Parameter(torch.tensor(config.scale))

    def forward(self, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        return x - self.scale.to(x.dtype) * outputs[int(self.depth * len(outputs))]
