"""The residual stream, from the token ids to the input of the head."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from plgolf.model.context import Context
from plgolf.model.norm import rms_norm
from plgolf.model.token_ids import range_error

if TYPE_CHECKING:
    from plgolf.model.gpt import GPT
    from plgolf.model.memory import Memory


def residual_stream(
    gpt: "GPT",
    input_ids: Tensor,
    segments: tuple[Tensor, int | None] | None = None,
    memory: "Memory | None" = None,
) -> Tensor:
    """Computes the normalised output of the last layer, (batch, time, dim).

    Args:
        gpt: the model.
        input_ids: checked token ids, (batch, time).
        segments: see ``Context``; None for one text in each row.
        memory: earlier positions in generation.
    """
    try:
        x = gpt.embedding(input_ids)
    except IndexError as error:
        raise range_error("input_ids", input_ids, gpt.config.vocab_size) from error
    time = input_ids.size(1)
    rotary = gpt.rotary(time, x.dtype) if memory is None else memory.rotary(time)
    values = None if gpt.value_source is None else gpt.value_source(input_ids)
    context = Context(input_ids, x, rotary, values, segments, memory, {})
    x = _inputs(gpt, x, context)
    return rms_norm(_layers(gpt, x, context._replace(x0=x)))


def _inputs(gpt: "GPT", x: Tensor, context: Context) -> Tensor:
    for part in gpt.input_parts.values():
        x = x if part.after_norm else part(x, context)
    x = rms_norm(x)
    for part in gpt.input_parts.values():
        x = part(x, context) if part.after_norm else x
    return x


def _layers(gpt: "GPT", x: Tensor, context: Context) -> Tensor:
    residual = gpt.residual
    rows = iter(gpt.skip_weights.to(x.dtype))
    gates = None if gpt.skip_gates is None else iter(gpt.skip_gates.sigmoid().to(x.dtype))
    lanes: tuple[Tensor, ...] = (x,)
    outputs: list[Tensor] = []
    for slot, (layer, skip) in enumerate(gpt.visits):
        if residual is not None:
            lanes = residual.enter(layer, lanes)
        if skip is not None:
            skipped = next(rows) * outputs[skip]
            x = lanes[0] + skipped if gates is None else torch.lerp(skipped, lanes[0], next(gates))
            lanes = (x, *lanes[1:])
        block = gpt.blocks[layer]
        if residual is None:
            lanes = (block(lanes[0], context, slot),)
        else:
            lanes = residual(layer, block, lanes, context, slot)
        outputs.append(lanes[0])
    y: Tensor = gpt.output_parts(lanes[0] if residual is None else residual.merge(lanes), outputs)
    return y
