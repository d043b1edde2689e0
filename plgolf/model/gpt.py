"""The table of contents of the architecture: embed, run the layers in order, score."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plgolf.errors import UserError
from plgolf.hardware import resolve_dtype
from plgolf.model.attention import AttentionConfig
from plgolf.model.block import Block
from plgolf.model.cache import Cache, LayerCache
from plgolf.model.depth import skip_sources
from plgolf.model.head import Head, HeadConfig
from plgolf.model.mlp import MLPConfig
from plgolf.model.norm import rms_norm
from plgolf.model.rotary import Rotary

_AT_MOST = {"vocab_size": 2**20, "dim": 2**16, "num_layers": 512}
"""More is a mistake, and would fill any memory."""


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Everything that decides the shape of the model.

    Args:
        vocab_size: token ids the model knows; must equal the tokenizer's size.
        dim: width of the residual stream.
        num_layers: attention plus MLP layers.
        embedding_std: standard deviation of the initial embedding.
        compute_dtype: dtype of embedding and stream; ``auto`` becomes what this machine is fast in, and is
            saved as that. Linear weights and small parameters are float32 either way.
        attention: the attention layers.
        mlp: the MLPs.
        head: the output layer.
    """

    vocab_size: int = 1024
    dim: int = 512
    num_layers: int = 9
    embedding_std: float = 0.005
    compute_dtype: Literal["bfloat16", "float32", "auto"] = "bfloat16"
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    mlp: MLPConfig = field(default_factory=MLPConfig)
    head: HeadConfig = field(default_factory=HeadConfig)

    def __post_init__(self) -> None:
        for name, most in _AT_MOST.items():
            value = getattr(self, name)
            if value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
            if value > most:
                raise UserError(f"{name} must be at most {most}, got {value}")
        if not 0 <= self.embedding_std < math.inf:
            raise UserError(f"embedding_std must be finite and at least 0, got {self.embedding_std}")
        object.__setattr__(self, "compute_dtype", resolve_dtype("compute_dtype", self.compute_dtype))
        self.attention.head_dim(self.dim)
        self.mlp.hidden_dim(self.dim)


class GPT(nn.Module):
    """A decoder-only transformer with U-Net skips.

    No autocast: the embedding's output sets the dtype of the residual stream, Linear weights are cast
    at use, norms keep their input's dtype, and logits are float32.

    Args:
        config: the architecture.

    >>> gpt = GPT(GPTConfig(vocab_size=64, dim=32, num_layers=2))
    >>> gpt(torch.zeros(1, 8, dtype=torch.long)).shape
    torch.Size([1, 8, 64])
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        nn.init.normal_(self.embedding.weight, std=config.embedding_std)
        self.embedding.to(getattr(torch, config.compute_dtype))
        self.rotary = Rotary(config.attention.head_dim(config.dim), base=config.attention.rope_base)
        self.blocks = nn.ModuleList(
            Block(config.dim, config.attention, config.mlp) for _ in range(config.num_layers)
        )
        self._skip_sources = skip_sources(config.num_layers)
        skips = config.num_layers // 2
        # A single layer has none to train, and DDP would wait for their gradient.
        self.skip_weights = nn.Parameter(torch.ones(skips, config.dim), requires_grad=skips > 0)
        self.head = Head(config.vocab_size, config.dim, config.head)

    def _residual_stream(self, input_ids: Tensor, cache: Cache | None = None) -> Tensor:
        x = x0 = rms_norm(self.embedding(input_ids))
        time = input_ids.size(1)
        rotary = self.rotary(time, x.dtype) if cache is None else cache.rotary(time)
        layers = cache.layers if cache is not None else [None] * len(self.blocks)
        skip_weights = iter(self.skip_weights.to(x.dtype))
        outputs: list[Tensor] = []
        for block, source, layer in zip(self.blocks, self._skip_sources, layers, strict=True):
            if source is not None:
                x = x + next(skip_weights) * outputs[source]
            x = block(x, x0, rotary, layer)
            outputs.append(x)
        return rms_norm(x)

    def forward(
        self,
        input_ids: Tensor,
        target_ids: Tensor | None = None,
        reduction: Literal["mean", "none"] = "mean",
    ) -> Tensor:
        """Scores every position, or the given targets.

        Args:
            input_ids: int64 (batch, time).
            target_ids: int64 (batch, time); the token after each position, -100 where none counts.
            reduction: of the targets' losses.

        Returns:
            Float32 logits (batch, time, vocab), or with targets their loss in nats: the mean (), or of each
            (batch, time) with 0 where none counts.
        """
        logits: Tensor = self.head(self._residual_stream(input_ids), self.embedding.weight)
        if target_ids is None:
            return logits
        loss = F.cross_entropy(logits.flatten(0, 1), target_ids.flatten(), reduction=reduction)
        return loss if reduction == "mean" else loss.view_as(target_ids)

    def cache(self, capacity: int, *, batch: int = 1) -> Cache:
        """Makes an empty cache for ``next_logits``.

        Args:
            capacity: positions it can hold.
            batch: sequences side by side.
        """
        attention, weight = self.config.attention, self.embedding.weight
        head_dim = attention.head_dim(self.config.dim)
        shape = (batch, attention.num_kv_heads, capacity, head_dim)
        layers = [LayerCache(shape, weight) for _ in self.blocks]
        return Cache(layers, self.rotary(capacity, weight.dtype))

    def next_logits(self, input_ids: Tensor, cache: Cache) -> Tensor:
        """Scores what may follow the cached positions and these, which are then cached, too.

        Args:
            input_ids: int64 (batch, time), at least one position.
            cache: of this model; it must have room for them.

        Returns:
            Float32 logits (batch, vocab): those that ``forward`` has at the last position of all of them.
        """
        x = self._residual_stream(input_ids, cache)[:, -1:]
        logits: Tensor = self.head(x, self.embedding.weight)
        return logits[:, 0]
