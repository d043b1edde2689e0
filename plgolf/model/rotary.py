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
        cos, sin = _tables(self.inverse_frequency, seq_len, dtype)
        return cos, sin


@torch.library.custom_op("plgolf::rotary_tables", mutates_args=())
def _tables(inverse_frequency: Tensor, seq_len: int, dtype: torch.dtype) -> list[Tensor]:
    """Makes both tables, in an operator of its own.

    The compiler cannot look into it, and so does not work them out anew for each head of each layer.
    """
    position = torch.arange(seq_len, dtype=torch.float32, device=inverse_frequency.device)
    angle = torch.outer(position, inverse_frequency)
    return [angle.cos().to(dtype), angle.sin().to(dtype)]


@_tables.register_fake
def _(inverse_frequency: Tensor, seq_len: int, dtype: torch.dtype) -> list[Tensor]:
    shape = (seq_len, inverse_frequency.size(0))
    return [inverse_frequency.new_empty(shape, dtype=dtype) for _ in range(2)]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair of channels by its position's angle.

    The halves stay together: to cut them and put them together takes 1 % of a GPU's whole step more.

    Args:
        x: (..., head_dim).
        cos: broadcasts to (..., head_dim / 2).
        sin: of the same shape.
    """
    halves = torch.unflatten(x, -1, (2, -1))
    turned = halves * cos.unsqueeze(-2) + halves.flip(-2) * torch.stack((sin, -sin), dim=-2)
    return turned.flatten(-2)
