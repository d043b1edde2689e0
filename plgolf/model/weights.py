"""Builds models from the weights of files, after a check that they fit the architecture."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from plgolf.errors import UserError
from plgolf.model.gpt import GPT, GPTConfig


def check_weights_fit(config: GPTConfig, weights: Mapping[str, Tensor]) -> None:
    """Checks names, shapes and dtypes of weights on any device, meta too.

    Raises:
        UserError: a tensor is missing, unknown or does not fit; the message names the first one.
    """
    _gpt_without_weights(config, weights)


def gpt_with_weights(config: GPTConfig, weights: Mapping[str, Tensor]) -> GPT:
    """Builds a model in training mode whose parameters are the given CPU tensors, which are not copied.

    Raises:
        UserError: the weights do not fit the architecture.
    """
    gpt = _gpt_without_weights(config, weights)
    gpt.load_state_dict(weights, assign=True)
    gpt.rotary = gpt.new_rotary()
    return gpt


def copied(gpt: GPT, *, in_float32: bool = False) -> GPT:
    """Copies a model, maybe compiled, with the order of layers that it has now.

    Args:
        gpt: the model, on any device.
        in_float32: True to compute in float32, False in the model's own dtype.

    Returns:
        A model in eval mode that is not compiled, on the CPU.
    """
    config = replace(gpt.config, compute_dtype="float32") if in_float32 else gpt.config
    weights = {
        name: tensor.detach().to("cpu", torch.float32 if in_float32 else tensor.dtype, copy=True)
        for name, tensor in gpt.state_dict().items()
    }
    copy = gpt_with_weights(config, weights).eval()
    copy.visits = gpt.visits
    return copy


def _gpt_without_weights(config: GPTConfig, weights: Mapping[str, Tensor]) -> GPT:
    """Builds a model without data after a check that the weights fit it."""
    num_layers = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    if config.num_layers != num_layers:
        raise UserError(f"weights do not fit: num_layers must be their {num_layers}, got {config.num_layers}")
    # These bound the size of everything that is built.
    sizes = {
        "embedding.weight": (config.vocab_size, config.dim),
        "blocks.0.attention.qk_gain": (config.attention.num_heads,),
        "blocks.0.mlp.up_proj.weight": (
            config.mlp.of_layers(num_layers)[0].hidden_dim(config.dim),
            config.dim,
        ),
    }
    for name, shape in sizes.items():
        _check_tensor(name, weights.get(name), shape)
    with torch.device("meta"):
        gpt = GPT(config)
    expected = gpt.state_dict()
    for name, tensor in expected.items():
        _check_tensor(name, weights.get(name), tuple(tensor.shape), tensor.dtype)
    unknown = sorted(weights.keys() - expected.keys())
    if unknown:
        raise UserError(f"weights do not fit: {unknown[0]!r:.100} is not in this architecture")
    return gpt


def _check_tensor(
    name: str, tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype | None = None
) -> None:
    if tensor is None:
        raise UserError(f"weights do not fit: {name} is missing")
    if tensor.shape != shape:
        raise UserError(f"weights do not fit: {name} must have shape {shape}, got {tuple(tensor.shape)}")
    if dtype is not None and tensor.dtype is not dtype:
        raise UserError(f"weights do not fit: {name} must be {dtype}, got {tensor.dtype}")
