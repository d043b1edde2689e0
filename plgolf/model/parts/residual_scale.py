"""A factor of the residual stream in each layer (residual lambdas of https://github.com/karpathy/nanochat)."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from plgolf.errors import UserError
from plgolf.model.context import Context
from plgolf.model.parts.ports import PartConfig, Shape, StreamPart


@dataclass(frozen=True, kw_only=True)
class ResidualScaleConfig(PartConfig):
    """Settings of the factors, whose initial values change linearly from the first to the last layer.

    Args:
        layers: layers that have them.
        first: initial factor of the stream in the model's first layer.
        last: initial factor of the stream in the model's last layer.
        first_input: initial factor of the first layer's input, which is added, in the model's first layer.
        last_input: initial factor of the first layer's input in the model's last layer.
    """

    layers: str = "all"
    first: float = 1.15
    last: float = 1.05
    first_input: float = 0.2
    last_input: float = 0.05

    def check(self, shape: Shape) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{field.name} must be finite, got {value}")

    def build(self, shape: Shape) -> "ResidualScale":
        down = shape.layer / max(shape.num_layers - 1, 1)
        stream = self.first + down * (self.last - self.first)
        return ResidualScale(stream, self.first_input + down * (self.last_input - self.first_input))


class ResidualScale(StreamPart):
    """Multiplies the stream by a learned factor and adds the first layer's input with another."""

    def __init__(self, stream: float, restored: float) -> None:
        super().__init__()
        self.stream = nn.Parameter(torch.tensor(stream))
        self.restored = nn.Parameter(torch.tensor(restored))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.stream.to(x.dtype) * x + self.restored.to(x.dtype) * context.x0
