"""Exclusive self-attention: heads write nothing along their own position's value (record 2026-03-22, XSA)."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from plgolf.model.parts.ports import HeadPart, PartConfig, Shape


@dataclass(frozen=True, kw_only=True)
class ExclusiveConfig(PartConfig):
    """Settings of exclusive attention.

    Args:
        layers: layers that have it, such as ``all`` or ``last 4``.
    """

    layers: str = "all"

    def build(self, shape: Shape) -> "Exclusive":
        return Exclusive()


class Exclusive(HeadPart):
    """Projects the output of each head onto what is orthogonal to the value of the same position."""

    def forward(self, y: Tensor, own_v: Tensor, x: Tensor) -> Tensor:
        direction = F.normalize(own_v, dim=-1).unsqueeze(-2)
        grouped = y.view(*own_v.shape[:3], -1, y.size(-1))
        along = (grouped * direction).sum(-1, keepdim=True) * direction
        return (grouped - along).flatten(2, 3)
