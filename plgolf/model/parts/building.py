"""Checks the parts of a configuration, and adds them to a model."""

from typing import TYPE_CHECKING

from plgolf.errors import under
from plgolf.model.block import Block
from plgolf.model.layers import layer_indices
from plgolf.model.parts.ports import HeadPart, InputPart, Shape

if TYPE_CHECKING:
    from plgolf.model.gpt import GPT, GPTConfig


def check_parts(config: "GPTConfig") -> None:
    """Raises a UserError, with the path below ``GPTConfig``, if the settings of a part do not fit."""
    shape = _shape(config)
    for name, part in config.parts.in_use().items():
        with under(f"parts.{name}"):
            layer_indices(part.layers, shape.num_layers)
            part.check(shape)


def add_parts(gpt: "GPT") -> None:
    """Adds the parts that its configuration names to a model, at the ports of their classes."""
    shape = _shape(gpt.config)
    for name, part in gpt.config.parts.in_use().items():
        gpt.value_source = part.source(shape) or gpt.value_source
        module = part.build(shape)
        if isinstance(module, InputPart):
            gpt.input_parts[name] = module
            continue
        first, *others = sorted(layer_indices(part.layers, shape.num_layers))
        for layer, one in [(first, module), *((layer, part.build(shape)) for layer in others)]:
            block = gpt.blocks[layer]
            assert isinstance(block, Block)
            ports = block.attention.head_parts if isinstance(one, HeadPart) else block.attention.value_parts
            ports[name] = one


def _shape(config: "GPTConfig") -> Shape:
    attention = config.attention
    heads = (attention.num_heads, attention.num_kv_heads, attention.head_dim(config.dim))
    return Shape(config.vocab_size, config.dim, config.num_layers, *heads)
