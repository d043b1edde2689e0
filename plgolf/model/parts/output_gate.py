"""A gate on the output of each attention head (https://arxiv.org/abs/2505.06708; record 2026-04-27)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from plgolf.config import newer
from plgolf.errors import UserError
from plgolf.model.linear import CastLinear
from plgolf.model.parts.ports import HeadPart, PartConfig, Shape
from plgolf.roles import Role


@dataclass(frozen=True, kw_only=True)
class OutputGateConfig(PartConfig):
    """Settings of the gate on the heads of attention.

    Args:
        layers: layers that have it.
        window: number of first channels of the layer's input that the gates depend on; the model's width for
            all of them.
        scale: multiplies the input of the sigmoid.
        factor: multiplies the sigmoid: with 2 a gate begins at 1.
        std: standard deviation of the initial weights.
    """

    layers: str = "all"
    window: int = 12
    scale: float = 0.5
    factor: float = newer(1.0)
    std: float = newer(0.0)

    def check(self, shape: Shape) -> None:
        if not 1 <= self.window <= shape.dim:
            raise UserError(f"window must be from 1 to the width {shape.dim}, got {self.window}")
        if not (math.isfinite(self.scale) and self.scale):
            raise UserError(f"scale must be finite and not 0, got {self.scale}")
        if not 0 < self.factor < math.inf:
            raise UserError(f"factor must be finite and positive, got {self.factor}")
        if not 0 <= self.std < math.inf:
            raise UserError(f"std must be finite and at least 0, got {self.std}")

    def build(self, shape: Shape) -> "OutputGate":
        return OutputGate(shape, self)


class OutputGate(HeadPart):
    """Multiplies each head by a factor, from 0 to ``factor``, that depends on the position's input."""

    role = Role.SCALAR

    def __init__(self, shape: Shape, config: OutputGateConfig) -> None:
        super().__init__()
        self.window, self.scale, self.factor = config.window, config.scale, config.factor
        self.proj = CastLinear(config.window, shape.num_heads, zero_init=True)
        self.proj.initial_std = config.std or None

    def forward(self, y: Tensor, own_v: Tensor, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.scale * self.proj(x[..., : self.window])).unsqueeze(-1)
        return y * (gate if self.factor == 1 else self.factor * gate)
