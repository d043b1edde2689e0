"""Checks the parts of a configuration, and adds them to a model."""

from typing import TYPE_CHECKING

from torch import nn

from plgolf.errors import under
from plgolf.model.block import Block
from plgolf.model.layers import layer_indices
from plgolf.model.parts.ports import (
    HeadPart,
    InputPart,
    KeyPart,
    LayerPart,
    LogitPart,
    OutputPart,
    PartConfig,
    Shape,
    StreamPart,
    ValuePart,
)

if TYPE_CHECKING:
    from plgolf.model.gpt import GPT, GPTConfig


def check_parts(config: "GPTConfig") -> None:
    """Raises a UserError, with the path below ``GPTConfig``, if the settings of a part do not fit."""
    shape = _shape(config)
    for name, part in config.parts.in_use().items():
        with under(f"parts.{name}"):
            _layers_of(part, shape)
            part.check(shape)


def add_parts(gpt: "GPT") -> None:
    """Adds the parts that its configuration names to a model, at the ports of their classes."""
    shape = _shape(gpt.config)
    for name, part in gpt.config.parts.in_use().items():
        gpt.value_source = part.source(shape) or gpt.value_source
        layers = _layers_of(part, shape)
        module = part.build(shape._replace(layer=layers[0]) if layers else shape)
        if isinstance(module, LogitPart):
            gpt.head.part = module
        elif isinstance(module, InputPart | OutputPart):
            (gpt.input_parts if isinstance(module, InputPart) else gpt.output_parts)[name] = module
            for layer in layers:
                one = part.in_layer(shape._replace(layer=layer))
                if one is not None:
                    _add(gpt.blocks[layer], name, one)
        else:
            _add(gpt.blocks[layers[0]], name, module)
            for layer in layers[1:]:
                _add(gpt.blocks[layer], name, part.build(shape._replace(layer=layer)))


def _add(block: nn.Module, name: str, module: nn.Module) -> None:
    """Adds a part to the port of a layer that its class names."""
    assert isinstance(block, Block)
    attention = block.attention
    ports = {
        StreamPart: block.stream_parts,
        LayerPart: block.layer_parts,
        KeyPart: attention.key_parts,
        ValuePart: attention.value_parts,
        HeadPart: attention.head_parts,
    }
    next(port for kind, port in ports.items() if isinstance(module, kind))[name] = module


def _layers_of(part: PartConfig, shape: Shape) -> list[int]:
    return [] if part.layers is None else sorted(layer_indices(part.layers, shape.num_layers))


def _shape(config: "GPTConfig") -> Shape:
    attention = config.attention
    heads = (attention.num_heads, attention.num_kv_heads, attention.head_dim(config.dim))
    return Shape(config.vocab_size, config.dim, config.num_layers, *heads, config.rotary_dims)
