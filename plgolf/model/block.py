"""One layer: residual mix, attention and MLP."""

import torch
from torch import Tensor, nn

from plgolf.model.attention import AttentionConfig, SelfAttention
from plgolf.model.context import Context, Port
from plgolf.model.mlp import MLP, MLPConfig
from plgolf.model.norm import rms_norm


class Block(nn.Module):
    """Mixes in the normalised embedding, then adds attention and MLP with learned scales.

    The mix and the scales per channel are from modded-nanogpt (https://github.com/KellerJordan/modded-nanogpt).

    Args:
        dim: model width.
        attention: settings of the attention.
        mlp: settings of the MLP.
        norm_scale: multiplies the normalised inputs of attention and MLP.
    """

    def __init__(
        self, dim: int, attention: AttentionConfig, mlp: MLPConfig, *, norm_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.norm_scale = norm_scale
        self.residual_mix = nn.Parameter(torch.tensor([[1.0], [0.0]]).repeat(1, dim))
        self.attention_scale = nn.Parameter(torch.ones(dim))
        self.mlp_scale = nn.Parameter(torch.ones(dim))
        self.attention = SelfAttention(dim, attention)
        self.mlp = MLP(dim, mlp)
        self.stream_parts, self.layer_parts = Port(), Port()

    def mix(self, x: Tensor, context: Context) -> Tensor:
        """Mixes the input of the first layer into the stream ``x``, (batch, time, dim)."""
        keep, restore = self.residual_mix.to(x.dtype).unbind()
        mixed: Tensor = self.stream_parts(keep * x + restore * context.x0, context)
        return mixed

    def attend(self, x: Tensor, context: Context, slot: int) -> Tensor:
        """Computes what attention adds to the mixed stream ``x``; ``slot`` is the number of the visit."""
        y: Tensor = self.attention(self._normalised(x), context, slot, scale=self.attention_scale)
        return y

    def feed(self, x: Tensor) -> Tensor:
        """Computes what the MLP adds to the stream ``x``."""
        y: Tensor = self.mlp(self._normalised(x), scale=self.mlp_scale)
        return y

    def _normalised(self, x: Tensor) -> Tensor:
        x = rms_norm(x)
        return x if self.norm_scale == 1 else x * self.norm_scale

    def forward(self, x: Tensor, context: Context, slot: int = 0) -> Tensor:
        """Computes the residual stream after this layer, of the shape and dtype of ``x``.

        Args:
            x: the residual stream, (batch, time, dim).
            context: what all layers share.
            slot: number of the visit, for the memory of generation.
        """
        x = self.mix(x, context)
        attended = x + self.attend(x, context, slot)
        out: Tensor = self.layer_parts(attended + self.feed(attended), x)
        return out
