"""Rotary position embedding on the two halves of each head (https://arxiv.org/abs/2104.09864)."""

import torch
from torch import Tensor, nn


class Rotary(nn.Module):
    """Makes the tables of cosines and sines by position.

    Args:
        head_dim: channels of a head, an even number; channel i turns with channel i + head_dim / 2.
        base: frequencies are ``base ** (-2 i / head_dim)``.
    """

    inverse_frequency: Tensor

    def __init__(self, head_dim: int, *, base: float) -> None:
        super().__init__()
        exponent = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        # Derived from the configuration, so it is in no checkpoint.
        self.register_buffer("inverse_frequency", 1.0 / base**exponent, persistent=False)

    def forward(self, seq_len: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines, each (seq_len, head_dim / 2), computed in float32."""
        position = torch.arange(seq_len, dtype=torch.float32, device=self.inverse_frequency.device)
        angle = torch.outer(position, self.inverse_frequency)
        return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair of channels of ``x`` (..., time, head_dim) by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)
