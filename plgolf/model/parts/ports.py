"""The places at which a part plugs into the model, and what a part's settings provide."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from plgolf.errors import UserError
from plgolf.model.context import Context


class Shape(NamedTuple):
    """Sizes that a part may depend on.

    Args:
        vocab_size: number of token ids.
        dim: width of the residual stream.
        num_layers: number of layers.
        num_heads: number of query heads.
        num_kv_heads: number of key and value heads.
        head_dim: channels of a head.
        rotary_dims: first channels of a head that turn with the position.
        layer: the layer that a part is built for, where it is part of a layer.
    """

    vocab_size: int
    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dims: int
    layer: int = 0


def check_gain(gain: float, dim: int, width: int) -> None:
    """Raises a UserError if a factor on the initial projection of a table is out of range or has none."""
    if not 0 < gain < math.inf:
        raise UserError(f"gain must be finite and positive, got {gain}")
    if gain != 1 and dim == width:
        raise UserError(f"gain must be 1 for a table of width {width}, which is not projected, got {gain}")


class Table(nn.Embedding):
    """An embedding with a standard deviation of its own at the start; see ``initialise``."""

    def __init__(self, rows: int, dim: int, *, std: float) -> None:
        super().__init__(rows, dim)
        self.initial_std = std


class InputPart(nn.Module, ABC):
    """Changes the input of the first layer, before or after its norm."""

    after_norm = False
    """True if the part changes the normalised embedding."""

    @abstractmethod
    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Returns the changed embedding, of the shape and dtype of ``x``, (batch, time, dim)."""


class ValueSource(nn.Module, ABC):
    """Computes ``Context.values`` once, for the parts of all layers."""

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Returns values, (batch, time, key-value width), of token ids (batch, time)."""


class StreamPart(nn.Module, ABC):
    """Changes the residual stream that enters one layer."""

    @abstractmethod
    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Returns the changed stream, of the shape and dtype of ``x``, (batch, time, dim)."""


class KeyPart(nn.Module, ABC):
    """Changes the keys of one attention layer."""

    @abstractmethod
    def forward(self, k: Tensor, context: Context, slot: int) -> Tensor:
        """Returns changed keys, which generation keeps.

        Args:
            k: keys after the rotation, (batch, time, key-value heads, head_dim); the result has their shape
                and dtype.
            context: what all layers share.
            slot: number of the visit of the layer.
        """


class ValuePart(nn.Module, ABC):
    """Changes the values of one attention layer before they are split into heads."""

    @abstractmethod
    def forward(self, v: Tensor, context: Context, x: Tensor) -> Tensor:
        """Returns changed values.

        Args:
            v: values, (batch, time, key-value width); the result has their shape and dtype.
            context: what all layers share.
            x: the input of the layer, normalised and scaled, (batch, time, dim).
        """


class HeadPart(nn.Module, ABC):
    """Changes the outputs of the heads of one attention layer."""

    @abstractmethod
    def forward(self, y: Tensor, own_v: Tensor, x: Tensor) -> Tensor:
        """Returns changed outputs of the heads.

        Args:
            y: outputs of the heads, (batch, time, heads, head_dim); the result has their shape and dtype.
            own_v: values of the same positions, (batch, time, key-value heads, head_dim).
            x: the input of the layer, normalised and scaled, (batch, time, dim).
        """


class LayerPart(nn.Module, ABC):
    """Changes the residual stream that leaves one layer; with two lanes, each of both."""

    @abstractmethod
    def forward(self, out: Tensor, x: Tensor) -> Tensor:
        """Returns the changed stream.

        Args:
            out: the stream after the layer, (batch, time, dim); the result has its shape and dtype.
            x: the stream to which the layer has added, after the mix with the first layer's input.
        """


class OutputPart(nn.Module, ABC):
    """Changes the stream after the last layer."""

    @abstractmethod
    def forward(self, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """Returns the changed stream before the last norm.

        Args:
            x: the stream, (batch, time, dim); the result has its shape and dtype.
            outputs: the stream after each use of a layer, in order.
        """


class LogitPart(nn.Module, ABC):
    """Computes logits from the products of stream and embedding, in place of the soft cap."""

    @abstractmethod
    def forward(self, logits: Tensor) -> Tensor:
        """Returns float32 logits, of the shape of ``logits``, (batch, time, vocab)."""


class PartConfig:
    """Base of the settings of a part, which are frozen dataclasses."""

    layers: str | None = "all"
    """Layers that have the part, in words (``layer_indices``); for parts of layers."""

    def check(self, shape: Shape) -> None:
        """Raises a UserError that names the field if a setting does not fit the model."""

    def build(self, shape: Shape) -> nn.Module:
        """Returns a new part; its class says where it belongs."""
        raise NotImplementedError

    def in_layer(self, shape: Shape) -> nn.Module | None:
        """Returns what each layer has of this part, if ``build`` returns a part of the whole model."""
        return None

    def source(self, shape: Shape) -> ValueSource | None:
        """Returns what computes ``Context.values`` for this part, if anything."""
        return None
