"""The whole model: embed, run the layers in order, compute logits or losses."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plgolf.config import newer
from plgolf.errors import UserError, under, whole_number
from plgolf.hardware import resolve_dtype
from plgolf.model.attention import AttentionConfig
from plgolf.model.block import Block
from plgolf.model.context import Port
from plgolf.model.depth import LanesConfig, ParallelConfig, RecurrenceConfig, visits
from plgolf.model.first_values import FirstValuesConfig
from plgolf.model.head import Head, HeadConfig
from plgolf.model.initial import Matrices, initialise, initialise_rest
from plgolf.model.mlp import MLPConfig
from plgolf.model.parts import PartsConfig
from plgolf.model.rotary import Rotary
from plgolf.model.stream import residual_stream
from plgolf.model.token_ids import IGNORED, check_ids, check_targets, range_error

if TYPE_CHECKING:
    from plgolf.model.further import Further
    from plgolf.model.memory import Memory

_AT_MOST = {"vocab_size": 2**20, "dim": 2**16, "num_layers": 512}
"""Larger values are mistakes, and would fill any memory."""


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The architecture.

    Args:
        vocab_size: number of token ids; must equal the tokenizer's.
        dim: width of the residual stream.
        num_layers: number of layers, each with attention and an MLP.
        embedding_std: standard deviation of the initial embedding.
        compute_dtype: dtype of the embedding and the residual stream. ``auto`` is replaced at once by the
            dtype that is fast on this machine, and saved as that. Other parameters are always float32.
        attention: settings of the attention layers.
        mlp: settings of the MLPs.
        head: settings of the output layer.
        matrix_init: initial values of matrices that do not begin as 0, ``uniform`` or ``orthogonal``.
        first_values: further choices of initial values; null for none.
        norm_scale: ``depth`` multiplies the normalised inputs of layer i, from 0, by 1 / sqrt(i + 1).
        skips: ``plain`` adds outputs of early layers to the input of late ones with a learned factor;
            ``gated`` mixes them by a learned gate (record 2026-04-27).
        recurrence: layers that run several times; null for none.
        parallel: layers whose MLP does not wait for attention; null for none.
        lanes: layers in which attention and MLP read two streams; null for none.
        parts: optional techniques.

    Raises:
        UserError: a value is out of range, or the width does not fit the heads or the MLP.
    """

    vocab_size: int = 1024
    dim: int = 512
    num_layers: int = 9
    embedding_std: float = 0.005
    compute_dtype: Literal["bfloat16", "float32", "auto"] = "bfloat16"
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    mlp: MLPConfig = field(default_factory=MLPConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    matrix_init: Matrices = newer("uniform")
    first_values: FirstValuesConfig | None = newer(None)
    norm_scale: Literal["none", "depth"] = newer("none")
    skips: Literal["plain", "gated"] = newer("plain")
    recurrence: RecurrenceConfig | None = newer(None)
    parallel: ParallelConfig | None = newer(None)
    lanes: LanesConfig | None = newer(None)
    parts: PartsConfig = newer(PartsConfig())

    def __post_init__(self) -> None:
        for name, most in _AT_MOST.items():
            value = getattr(self, name)
            whole_number(name, value, least=1)
            if value > most:
                raise UserError(f"{name} must be at most {most}, got {value}")
        if not 0 <= self.embedding_std < math.inf:
            raise UserError(f"embedding_std must be finite and at least 0, got {self.embedding_std}")
        object.__setattr__(self, "compute_dtype", resolve_dtype("compute_dtype", self.compute_dtype))
        self.attention.head_dim(self.dim)
        with under("mlp"):
            for mlp in self.mlp.of_layers(self.num_layers):
                mlp.hidden_dim(self.dim)
        visits(self)
        if self.parallel or self.lanes:
            from plgolf.model.residual import layers_of  # noqa: PLC0415 (few use it)

            layers_of(self)
        if self.parts.in_use():
            from plgolf.model.parts.building import check_parts  # noqa: PLC0415 (few use it)

            check_parts(self)

    @property
    def rotary_dims(self) -> int:
        """Channels of each head that turn with the position."""
        return self.attention.rotary_dims or self.attention.head_dim(self.dim)

    def norm_scale_of(self, layer: int) -> float:
        """Returns what multiplies the normalised inputs of a layer."""
        return (layer + 1) ** -0.5 if self.norm_scale == "depth" else 1.0


class GPT(nn.Module):
    """A decoder-only transformer with U-Net skips, after the challenge's reference program.

    The architecture is that of https://github.com/openai/parameter-golf. There is no autocast: the embedding
    sets the dtype of the residual stream, Linear weights are cast at use, and logits are float32.

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
        initial: dict[str, Any] = {"embedding_std": config.embedding_std, "matrices": config.matrix_init}
        # At once: the order of random numbers is part of a seed's meaning.
        initialise(self.embedding, **initial)
        self.rotary = self.new_rotary()
        self.blocks = nn.ModuleList(
            Block(config.dim, config.attention, mlp, norm_scale=config.norm_scale_of(layer))
            for layer, mlp in enumerate(config.mlp.of_layers(config.num_layers))
        )
        self.visits = visits(config, 1.0)
        skips = sum(visit.skip is not None for visit in visits(config))
        # A single layer has no skips, and DDP would wait for the gradient of an empty parameter.
        self.skip_weights = nn.Parameter(torch.ones(skips, config.dim), requires_grad=skips > 0)
        self.skip_gates = None
        if config.skips == "gated":
            self.skip_gates = nn.Parameter(torch.zeros(skips, config.dim), requires_grad=skips > 0)
        self.residual = None
        if config.parallel or config.lanes:
            from plgolf.model.residual import Residual  # noqa: PLC0415 (few use it)

            self.residual = Residual(config)
        self.head = Head(config.vocab_size, config.dim, config.head)
        self.input_parts, self.output_parts = Port(), Port()
        self.value_source: nn.Module | None = None
        if config.parts.in_use():
            from plgolf.model.parts.building import add_parts  # noqa: PLC0415 (few use it)

            add_parts(self)
        initialise_rest(self, **initial)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                module.to(getattr(torch, config.compute_dtype))

    def new_rotary(self) -> Rotary:
        """Returns the rotary tables of this architecture, on the current default device."""
        attention = self.config.attention
        return Rotary(self.config.rotary_dims, base=attention.rope_base, length=attention.rope_length)

    def at(self, fraction: float) -> "GPT":
        """Sets the order of layers to that at a fraction of the run, from 0 to 1; a new model is at 1."""
        self.visits = visits(self.config, fraction)
        return self

    def forward(
        self,
        input_ids: Tensor,
        target_ids: Tensor | None = None,
        reduction: Literal["mean", "none"] = "mean",
        cu_seqlens: Tensor | None = None,
        max_document_tokens: int | None = None,
        further: "Further | None" = None,
    ) -> Tensor:
        """Computes logits, or the losses of targets.

        Args:
            input_ids: token ids, int64 (batch, time).
            target_ids: the next token of each position, int64 (batch, time); -100 to leave a position out.
            reduction: ``mean`` or ``none`` of the targets' losses.
            cu_seqlens: borders of the documents in packed rows, int32 (borders,): attention stays inside a
                document; see ``segment_attention``. None if each row is one text.
            max_document_tokens: most tokens that one of these documents has; None for those of the row.
            further: further targets of each position, whose weighted losses are added; None for none.

        Returns:
            Without targets, float32 logits (batch, time, vocab). With targets, float32 losses in nats: the
            mean () or each (batch, time), where left out positions have 0.

        Raises:
            UserError: ids have another type or shape or are out of range. The range is checked on a CPU
                without ``torch.compile`` only; elsewhere PyTorch reports it in its own way.
        """
        check_ids("input_ids", input_ids)
        if target_ids is not None:
            check_targets(target_ids, input_ids, reduction)
        segments = None if cu_seqlens is None else (cu_seqlens, max_document_tokens)
        logits: Tensor = self.head(residual_stream(self, input_ids, segments), self.embedding.weight)
        if target_ids is None:
            return logits
        try:
            loss = F.cross_entropy(
                logits.flatten(0, 1), target_ids.flatten(), ignore_index=IGNORED, reduction=reduction
            )
        except IndexError as error:
            raise range_error("target_ids", target_ids, self.config.vocab_size) from error
        loss = loss if further is None else loss + further.losses(logits, reduction)
        return loss if reduction == "mean" else loss.view_as(target_ids)

    def memory(self, capacity: int, *, batch: int = 1) -> "Memory":
        """Returns an empty memory for ``next_logits``.

        Args:
            capacity: largest number of positions, at least 1; with ``rope_length`` it sets the rotary base.
            batch: number of sequences, at least 1.
        """
        whole_number("capacity", capacity, least=1)
        whole_number("batch", batch, least=1)
        from plgolf.model.memory import Memory, Slot  # noqa: PLC0415 (training does not use it)

        attention, weight = self.config.attention, self.embedding.weight
        shape = (batch, attention.num_kv_heads, capacity, attention.head_dim(self.config.dim))
        return Memory([Slot(shape, weight) for _ in self.visits], self.rotary(capacity, weight.dtype))

    def next_logits(self, input_ids: Tensor, memory: "Memory") -> Tensor:
        """Computes the logits of the next token after the positions in memory and these, which it adds.

        Args:
            input_ids: token ids, int64 (batch, time), at least one position.
            memory: a memory of this model with room for them.

        Returns:
            Float32 logits (batch, vocab), those of ``forward`` on a text padded to the memory's capacity.

        Raises:
            UserError: ids have another type or shape, are out of range (on a CPU), or do not fit the memory.
        """
        check_ids("input_ids", input_ids)
        memory.check_batch(input_ids.size(0))
        x = residual_stream(self, input_ids, memory=memory)[:, -1:]
        logits: Tensor = self.head(x, self.embedding.weight)
        return logits[:, 0]
