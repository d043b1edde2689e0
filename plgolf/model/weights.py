"""Builds models from the weights of files, after a check that they fit the architecture."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from plgolf.errors import UserError
from plgolf.model.gpt import GPT, GPTConfig


def check_weights_fit(config: GPTConfig, weights: Mapping[str, Tensor]) -> None:
    """Checks names, shapes and dtypes against a model without data, whose size the weights bound.

    Args:
        config: the architecture.
        weights: tensors by plgolf's names, on any device, meta too.

    Raises:
        UserError: a tensor is missing, unknown or does not fit; the message names the first one.
    """
    _gpt_without_weights(config, weights)


def gpt_with_weights(config: GPTConfig, weights: Mapping[str, Tensor]) -> GPT:
    """Builds a model whose parameters are the given tensors, without initial values.

    Args:
        config: the architecture.
        weights: tensors by plgolf's names, on the CPU; they are not copied.

    Returns:
        The model, in training mode.

    Raises:
        UserError: the weights do not fit the architecture.
    """
    gpt = _gpt_without_weights(config, weights)
    gpt.load_state_dict(weights, assign=True)
    assert not any(tensor.is_meta for tensor in (*gpt.parameters(), *gpt.buffers()))
    return gpt


def _gpt_without_weights(config: GPTConfig, weights: Mapping[str, Tensor]) -> GPT:
    num_layers = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    if config.num_layers != num_layers:
        raise UserError(f"weights do not fit: num_layers must be their {num_layers}, got {config.num_layers}")
    # These bound the size of everything that is built.
    sizes = {
        "embedding.weight": (config.vocab_size, config.dim),
        "blocks.0.attention.qk_gain": (config.attention.num_heads,),
        "blocks.0.mlp.up_proj.weight": (config.mlp.hidden_dim(config.dim), config.dim),
    }
    for name, shape in sizes.items():
        _check_tensor(name, weights.get(name), shape)
    with _NoInitialValues(), torch.device("meta"):
        gpt = GPT(config)
    expected = gpt.state_dict()
    for name, tensor in expected.items():
        _check_tensor(name, weights.get(name), tuple(tensor.shape), tensor.dtype)
    unknown = sorted(weights.keys() - expected.keys())
    if unknown:
        raise UserError(f"weights do not fit: {unknown[0]!r:.100} is not in this architecture")
    return gpt


class _NoInitialValues(TorchFunctionMode):
    """Skips random initial values, which on the meta device would import code for a second.

    Computes what files do not hold, the rotary frequencies, on the CPU.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (nn.init.normal_, nn.init.kaiming_uniform_):
            return args[0] if args else kwargs["tensor"]
        if func is torch.arange:
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


def _check_tensor(
    name: str, tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype | None = None
) -> None:
    if tensor is None:
        raise UserError(f"weights do not fit: {name} is missing")
    if tensor.shape != shape:
        raise UserError(f"weights do not fit: {name} must have shape {shape}, got {tuple(tensor.shape)}")
    if dtype is not None and tensor.dtype is not dtype:
        raise UserError(f"weights do not fit: {name} must be {dtype}, got {tensor.dtype}")
