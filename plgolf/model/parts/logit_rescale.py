"""Logits that are limited by a shifted sigmoid (https://github.com/KellerJordan/modded-nanogpt)."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from plgolf.errors import UserError
from plgolf.model.parts.ports import LogitPart, PartConfig, Shape


@dataclass(frozen=True, kw_only=True)
class LogitRescaleConfig(PartConfig):
    """Settings of the limit, which replaces ``head.softcap``.

    Args:
        scale: largest logit.
        shift: added to each product of stream and embedding.
        width: divides the shifted product before the sigmoid.
    """

    scale: float = 23.0
    shift: float = 5.0
    width: float = 7.5

    def check(self, shape: Shape) -> None:
        for name in ("scale", "width"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} must be finite and positive, got {getattr(self, name)}")
        if not math.isfinite(self.shift):
            raise UserError(f"shift must be finite, got {self.shift}")

    def build(self, shape: Shape) -> "LogitRescale":
        return LogitRescale(**{field.name: getattr(self, field.name) for field in fields(self)})


class LogitRescale(LogitPart):
    """Computes scale * sigmoid((z + shift) / width), in which small logits have a larger slope than large."""

    def __init__(self, scale: float, shift: float, width: float) -> None:
        super().__init__()
        self.scale, self.shift, self.width = scale, shift, width

    def forward(self, logits: Tensor) -> Tensor:
        return self.scale * torch.sigmoid((logits + self.shift) / self.width)
