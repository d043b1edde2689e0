"""How attention and MLP of a layer read and write the residual stream, where not one after the other."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from plgolf.errors import UserError
from plgolf.model.block import Block
from plgolf.model.context import Context
from plgolf.model.depth import phases, visits
from plgolf.model.layers import layer_indices

if TYPE_CHECKING:
    from plgolf.model.gpt import GPTConfig

Lanes = tuple[Tensor, ...]
"""One or two residual streams, each (batch, time, dim)."""
_KEEP = 1.1
"""Initial factor of a stream in each layer of two lanes, as in the record."""


def layers_of(config: "GPTConfig") -> tuple[frozenset[int], frozenset[int]]:
    """Returns the layers in which attention and MLP are parallel, and those with two lanes.

    Raises:
        UserError: a layer is in both, or layers with two lanes are not the last of every phase.
    """
    count, parallel = config.num_layers, frozenset[int]()
    if config.parallel:
        parallel = layer_indices(config.parallel.layers, count, name="parallel.layers")
    if config.lanes is None:
        return parallel, frozenset()
    two = layer_indices(config.lanes.layers, count, name="lanes.layers")
    if parallel & two:
        raise UserError(f"lanes.layers must not be in parallel.layers, got {config.lanes.layers!r:.100}")
    for fraction in phases(config):
        split = [visit.layer in two for visit in visits(config, fraction)]
        if split != sorted(split):
            raise UserError(f"lanes.layers must be the last to run, got {config.lanes.layers!r:.100}")
    return parallel, two


class Residual(nn.Module):
    """The residual streams of a model that has parallel layers or two lanes.

    With two lanes attention reads the first and the MLP the second, and they write to both with learned
    factors, or each to its own (``LanesConfig.writes``).

    Args:
        config: the architecture.
    """

    def __init__(self, config: "GPTConfig") -> None:
        super().__init__()
        self.parallel, self.two = layers_of(config)
        self.result = config.lanes.merge if config.lanes else "mean"
        self.writes = config.lanes.writes if config.lanes else "both"
        if self.result == "learned":
            self.share = nn.Parameter(torch.tensor(0.5))
        if config.lanes and self.writes != "own":
            # A row for each layer of the model, as in the record; those of other layers are not used.
            keep = _KEEP if self.writes == "both" else math.sqrt(_KEEP)
            self.keep = nn.Parameter(torch.full((config.num_layers, 2), keep))
            self.post = nn.Parameter(torch.ones(config.num_layers, 2, 2))

    def enter(self, layer: int, lanes: Lanes) -> Lanes:
        """Splits the stream before the first layer with two lanes."""
        return lanes * 2 if layer in self.two and len(lanes) == 1 else lanes

    def forward(self, layer: int, block: Block, lanes: Lanes, context: Context, slot: int) -> Lanes:
        """Computes the streams after a layer; ``slot`` is the number of the visit."""
        if layer in self.parallel:
            x = block.mix(lanes[0], context)
            return (block.layer_parts(x + block.attend(x, context, slot) + block.feed(x), x),)
        if layer not in self.two:
            return (block(lanes[0], context, slot),)
        x = block.mix(lanes[0], context)
        outs = self._write(layer, block, lanes, block.attend(x, context, slot), x, context)
        return block.layer_parts(outs[0], x), block.layer_parts(outs[1], lanes[1])

    def _write(
        self, layer: int, block: Block, lanes: Lanes, attended: Tensor, x: Tensor, context: Context
    ) -> Lanes:
        """Computes two lanes after a layer whose attention has read ``x``."""
        first, second = lanes
        if self.writes == "own":
            return x + attended, second + block.feed(second)
        keep, post = self.keep[layer].to(first.dtype), self.post[layer].to(first.dtype)
        if self.writes == "in_turn":
            first, second = (keep[0] * lane + post[0, i] * attended for i, lane in enumerate(lanes))
            fed = block.feed(block.mix(second, context))
            return keep[1] * first + post[1, 0] * fed, keep[1] * second + post[1, 1] * fed
        fed = block.feed(second)
        return (
            keep[0] * first + post[0, 0] * attended + post[1, 0] * fed,
            keep[1] * second + post[0, 1] * attended + post[1, 1] * fed,
        )

    def merge(self, lanes: Lanes) -> Tensor:
        """Returns the stream for the head."""
        if self.result == "mean":
            return lanes[0] if len(lanes) == 1 else (lanes[0] + lanes[1]) / 2
        if self.result == "learned":
            return torch.lerp(lanes[-1], lanes[0], self.share.to(lanes[0].dtype))
        return lanes[0] if self.result == "attention" else lanes[-1]
