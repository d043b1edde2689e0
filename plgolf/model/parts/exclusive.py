"""Exclusive self-attention: heads write nothing along their own position's value (record 2026-03-22, XSA)."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plgolf.config import newer
from plgolf.model.parts.ports import HeadPart, PartConfig, Shape


@dataclass(frozen=True, kw_only=True)
class ExclusiveConfig(PartConfig):
    """Settings of exclusive attention.

    Args:
        layers: layers that have it, such as ``all`` or ``last 4``.
        amount: what is removed of the part along the value: the ``whole``, or a ``learned`` share of each
            head, the tanh of a parameter that begins as 0 (https://github.com/KellerJordan/modded-nanogpt).
    """

    layers: str = "all"
    amount: Literal["whole", "learned"] = newer("whole")

    def build(self, shape: Shape) -> "Exclusive":
        return Exclusive(None if self.amount == "whole" else shape.num_heads)


class Exclusive(HeadPart):
    """Projects the output of each head onto what is orthogonal to the value of the same position.

    Args:
        num_heads: number of heads, each of which learns the share that it removes; None to remove the whole.
    """

    def __init__(self, num_heads: int | None = None) -> None:
        super().__init__()
        self.amount = None if num_heads is None else nn.Parameter(torch.zeros(num_heads))

    def forward(self, y: Tensor, own_v: Tensor, x: Tensor) -> Tensor:
        direction = F.normalize(own_v, dim=-1).unsqueeze(-2)
        grouped = y.view(*own_v.shape[:3], -1, y.size(-1))
        along = (grouped * direction).sum(-1, keepdim=True) * direction
        if self.amount is not None:
            along = along * self.amount.tanh().to(y.dtype).view(*own_v.shape[2:3], -1, 1)
        return (grouped - along).flatten(2, 3)
