"""One layer: residual mix, attention and MLP."""

import torch
from torch import Tensor, nn

from plgolf.model.attention import AttentionConfig, SelfAttention
from plgolf.model.cache import LayerCache
from plgolf.model.mlp import MLP, MLPConfig
from plgolf.model.norm import rms_norm


class Block(nn.Module):
    """Mixes in the normalised embedding, then adds attention and MLP with learned scales.

    The mix and the scales per channel are from modded-nanogpt (https://github.com/KellerJordan/modded-nanogpt).
    """

    def __init__(self, dim: int, attention: AttentionConfig, mlp: MLPConfig) -> None:
        super().__init__()
        self.residual_mix = nn.Parameter(torch.tensor([[1.0], [0.0]]).repeat(1, dim))
        self.attention_scale = nn.Parameter(torch.ones(dim))
        self.mlp_scale = nn.Parameter(torch.ones(dim))
        self.attention = SelfAttention(dim, attention)
        self.mlp = MLP(dim, mlp)

    def forward(
        self, x: Tensor, x0: Tensor, rotary: tuple[Tensor, Tensor], cache: LayerCache | None = None
    ) -> Tensor:
        """Computes the residual stream after this layer, of the shape and dtype of ``x``.

        Args:
            x: the residual stream, (batch, time, dim).
            x0: the normalised embedding, of the same shape.
            rotary: cosines and sines of these positions, each (time, head_dim / 2).
            cache: keys and values of earlier positions.
        """
        keep, restore = self.residual_mix.to(x.dtype)
        x = keep * x + restore * x0
        x = x + self.attention(rms_norm(x), rotary, cache, scale=self.attention_scale)
        x = x + self.mlp(rms_norm(x), scale=self.mlp_scale)
        return x
