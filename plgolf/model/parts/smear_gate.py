"""Mixes the embedding of the previous token into each position."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plgolf.config import newer
from plgolf.errors import UserError
from plgolf.model.context import Context, previous
from plgolf.model.linear import CastLinear
from plgolf.model.parts.ports import InputPart, PartConfig, Shape
from plgolf.roles import Role


@dataclass(frozen=True, kw_only=True)
class SmearGateConfig(PartConfig):
    """Settings of the smear.

    Args:
        window: number of first channels of the embedding that the gate depends on; null for a gate of each
            channel that depends on nothing.
        bos_id: id of the token that begins a document, into which nothing is mixed; null for none.
        initial: initial gate of each channel, before the sigmoid; -3 mixes in 5 % (record 2026-03-19).
    """

    window: int | None = None
    bos_id: int | None = None
    initial: float = newer(0.0)

    def check(self, shape: Shape) -> None:
        if self.window is not None and not 1 <= self.window <= shape.dim:
            raise UserError(f"window must be from 1 to the width {shape.dim}, got {self.window}")
        if self.bos_id is not None and not 0 <= self.bos_id < shape.vocab_size:
            raise UserError(f"bos_id must be from 0 to {shape.vocab_size - 1}, got {self.bos_id}")
        if not math.isfinite(self.initial):
            raise UserError(f"initial must be finite, got {self.initial}")
        if self.initial and self.window is not None:
            raise UserError(f"initial must be 0 with window, got {self.initial}")

    def build(self, shape: Shape) -> "SmearGate":
        return ChannelSmear(shape, self) if self.window is None else WindowSmear(self, self.window)


class SmearGate(InputPart):
    """What both kinds of smear share: the previous position, without those before a document."""

    role = Role.SCALAR

    def __init__(self, bos_id: int | None) -> None:
        super().__init__()
        self.bos_id = bos_id

    def before(self, x: Tensor, context: Context) -> Tensor:
        """Returns the previous row of ``x``; 0 at the first position and where a document begins."""
        row = previous(x, context.memory, "smear_gate")
        return row if self.bos_id is None else row * (context.tokens != self.bos_id).unsqueeze(-1)


class ChannelSmear(SmearGate):
    """Replaces a part of each channel of the normalised embedding, at the start 1/2 (record 2026-03-22)."""

    after_norm = True

    def __init__(self, shape: Shape, config: SmearGateConfig) -> None:
        super().__init__(config.bos_id)
        self.gate = nn.Parameter(torch.full((shape.dim,), config.initial))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        fraction = torch.sigmoid(self.gate).to(x.dtype)
        return (1 - fraction) * x + fraction * self.before(x, context)


class WindowSmear(SmearGate):
    """Adds a fraction of the previous embedding that depends on a few channels (record 2026-04-27).

    The fraction is 0 at the start. The gate is that of modded-nanogpt
    (https://github.com/KellerJordan/modded-nanogpt).
    """

    def __init__(self, config: SmearGateConfig, window: int) -> None:
        super().__init__(config.bos_id)
        self.window = window
        self.proj = CastLinear(window, 1, zero_init=True)
        self.strength = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        gate = torch.sigmoid(self.proj(x[..., : self.window]))
        return x + self.strength.to(x.dtype) * gate * self.before(x, context)
