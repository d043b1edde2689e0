"""Rotary position embedding that pairs the two halves of a head (https://arxiv.org/abs/2104.09864)."""

import torch
from torch import Tensor, nn


class Rotary(nn.Module):
    """Computes the cosines and sines of each position's angles.

    Args:
        dims: channels of a head that turn, an even number; channel i is paired with channel i + dims / 2.
        base: the frequency of pair i is ``base ** (-2 i / dims)`` radians per position.
        length: at T > length positions the base is ``base * (T / length) ** (dims / (dims - 2))``, as in
            NTK-aware scaling (https://arxiv.org/abs/2309.00071, section 3.1); None for the same base always.
    """

    inverse_frequency: Tensor

    def __init__(self, dims: int, *, base: float, length: int | None = None) -> None:
        super().__init__()
        self.base, self.length = base, length
        exponent = torch.arange(0, dims, 2, dtype=torch.float32) / dims
        # Not saved: it follows from the configuration.
        self.register_buffer("inverse_frequency", 1.0 / base**exponent, persistent=False)

    def forward(self, seq_len: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines, each (seq_len, dims / 2), computed in float32, in ``dtype``."""
        frequency = self.inverse_frequency
        if self.length is not None and seq_len > self.length:
            pairs = len(frequency)
            base = self.base * (seq_len / self.length) ** (pairs / (pairs - 1))
            exponent = torch.arange(pairs, dtype=torch.float32, device=frequency.device) / pairs
            frequency = 1.0 / base**exponent
        cos, sin = _tables(frequency, seq_len, dtype)
        return cos, sin


@torch.library.custom_op("plgolf::rotary_tables", mutates_args=())
def _tables(inverse_frequency: Tensor, seq_len: int, dtype: torch.dtype) -> list[Tensor]:
    """Computes both tables. Opaque to the compiler, which would recompute them for each head."""
    position = torch.arange(seq_len, dtype=torch.float32, device=inverse_frequency.device)
    angle = torch.outer(position, inverse_frequency)
    return [angle.cos().to(dtype), angle.sin().to(dtype)]


@_tables.register_fake
def _(inverse_frequency: Tensor, seq_len: int, dtype: torch.dtype) -> list[Tensor]:
    shape = (seq_len, inverse_frequency.size(0))
    return [inverse_frequency.new_empty(shape, dtype=dtype) for _ in range(2)]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates each pair of channels of x (..., head_dim) by the negative angle of its position.

    Cosines and sines broadcast to (..., turning channels / 2); the other channels stay.
    """
    dims = 2 * cos.size(-1)
    if dims < x.size(-1):
        return torch.cat((rotate(x[..., :dims], cos, sin), x[..., dims:]), -1)
    # Slicing and concatenating the halves instead would add 1 % to a GPU's whole step.
    halves = torch.unflatten(x, -1, (2, -1))
    turned = halves * cos.unsqueeze(-2) + halves.flip(-2) * torch.stack((sin, -sin), dim=-2)
    return turned.flatten(-2)
