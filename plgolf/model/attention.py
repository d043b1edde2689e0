"""Causal self-attention with grouped key-value heads, normalised queries and keys, and a query gain.

Grouped heads: https://arxiv.org/abs/2305.13245. Query-key normalisation: https://arxiv.org/abs/2010.04245.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plgolf.config import newer
from plgolf.errors import UserError, at_least
from plgolf.model.causal import causal_attention
from plgolf.model.context import Context, Port
from plgolf.model.linear import CastLinear
from plgolf.model.norm import rms_norm
from plgolf.model.rotary import rotate


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Settings of every attention layer.

    Args:
        num_heads: number of query heads, which split the model width evenly.
        num_kv_heads: number of key and value heads; each serves num_heads / num_kv_heads query heads.
        qk_gain: initial value of the learned gain of each query head.
        rope_base: base of the rotary frequencies.
        rotary_dims: channels of each head that turn with the position, an even number; null for all.
        rope_length: longer sequences have a larger rotary base, with which their slowest pair turns as far as
            in this length; null for the same base at every length. Generation and ``LanguageModel.score``
            use the base of the training length, for short texts too.

    Raises:
        UserError: a value is out of range, or num_heads is not a multiple of num_kv_heads.
    """

    num_heads: int = 8
    num_kv_heads: int = 4
    qk_gain: float = 1.5
    rope_base: float = 10000.0
    rotary_dims: int | None = newer(None)
    rope_length: int | None = newer(None)

    def __post_init__(self) -> None:
        at_least("num_heads", self.num_heads, 1)
        at_least("num_kv_heads", self.num_kv_heads, 1)
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"num_heads must be a multiple of num_kv_heads ({self.num_kv_heads}), got {self.num_heads}"
            )
        if not 0 < self.rope_base < math.inf:
            raise UserError(f"rope_base must be finite and positive, got {self.rope_base}")
        if not math.isfinite(self.qk_gain):
            raise UserError(f"qk_gain must be finite, got {self.qk_gain}")
        if self.rope_length is not None:
            at_least("rope_length", self.rope_length, 1)
            if self.rotary_dims == 2:
                raise UserError("rotary_dims must be at least 4 with rope_length, got 2")

    def head_dim(self, dim: int) -> int:
        """Returns the channels of a head at model width ``dim``; raises a UserError if it does not fit."""
        if dim % self.num_heads:
            raise UserError(f"dim must be a multiple of attention.num_heads ({self.num_heads}), got {dim}")
        head_dim = dim // self.num_heads
        if head_dim % 2:
            raise UserError(f"dim / attention.num_heads must be even for rotary pairs, got {head_dim}")
        dims = self.rotary_dims
        if dims is not None and (dims % 2 or not 2 <= dims <= head_dim):
            raise UserError(f"rotary_dims must be an even number from 2 to {head_dim}, got {dims}")
        return head_dim


class SelfAttention(nn.Module):
    """Causal self-attention: each position attends to itself and to earlier positions."""

    maps_to_heads = ("q_proj", "k_proj", "v_proj")

    def __init__(self, dim: int, config: AttentionConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim(dim)
        kv_dim = config.num_kv_heads * self.head_dim
        self.q_proj = CastLinear(dim, dim)
        self.k_proj = CastLinear(dim, kv_dim)
        self.v_proj = CastLinear(dim, kv_dim)
        self.out_proj = CastLinear(dim, dim, zero_init=True)
        self.qk_gain = nn.Parameter(torch.full((config.num_heads,), config.qk_gain))
        self.key_parts, self.value_parts, self.head_parts = Port(), Port(), Port()

    def forward(self, x: Tensor, context: Context, slot: int = 0, *, scale: Tensor | None = None) -> Tensor:
        """Computes the attention layer's output, of the shape and dtype of ``x``.

        Args:
            x: the normalised stream, (batch, time, dim).
            context: has the rotary tables and, in generation, the memory of earlier positions.
            slot: number of the visit, whose keys and values are attended to and extended.
            scale: float32 (dim,), multiplies the output; None for 1.
        """
        # The heads of a position stay side by side in memory: attention's kernels then return their results
        # in the layout that out_proj reads.
        cos, sin = (table[:, None] for table in context.rotary)
        heads = (-1, self.head_dim)
        q = rotate(rms_norm(self.q_proj(x).unflatten(-1, heads)), cos, sin)
        k = rotate(rms_norm(self.k_proj(x).unflatten(-1, heads)), cos, sin)
        k = self.key_parts(k, context, slot)
        v = self.value_parts(self.v_proj(x), context, x)
        own_v = v.unflatten(-1, heads)
        q = q * self.qk_gain.to(q.dtype)[:, None]
        q, k, v = (each.transpose(1, 2) for each in (q, k, own_v))
        if context.memory is not None:
            y = context.memory.slots[slot].attend(q, k, v)
        elif context.segments is not None:
            from plgolf.model.segments import segment_attention  # noqa: PLC0415 (few use it)

            y = segment_attention(q, k, v, *context.segments)
        else:
            y = causal_attention(q, k, v)
        y = y.transpose(1, 2)
        y = self.head_parts(y, own_v, x)
        out: Tensor = self.out_proj(y.flatten(2), scale)
        return out
