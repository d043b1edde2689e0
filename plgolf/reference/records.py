"""Settings and weights of published records, under the names of their programs.

The records are folders of https://github.com/openai/parameter-golf. Those of March have the same settings.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from plgolf.errors import UserError
from plgolf.model import AttentionConfig, GPTConfig, HeadConfig, MLPConfig
from plgolf.model.parts import PartsConfig
from plgolf.model.parts.bigram_hash import BigramHashConfig
from plgolf.model.parts.exclusive import ExclusiveConfig
from plgolf.model.parts.smear_gate import SmearGateConfig
from plgolf.model.parts.value_embedding import ValueEmbeddingConfig
from plgolf.reference.names import weight_name_from_reference, weight_name_to_reference

RECORDS = ("2026-03-22", "2026-03-23")
_ROPE_LENGTH = 1024
"""Constant of the programs of March, whatever the length of training."""


def config_from_record(
    settings: Mapping[str, Any], record: str, *, compute_dtype: Literal["float32", "bfloat16"] = "float32"
) -> GPTConfig:
    """Translates the model settings of a record's program.

    Args:
        settings: under the program's names; those that are missing have the program's defaults.
        record: ``2026-03-22`` or ``2026-03-23``.
        compute_dtype: dtype of the residual stream.

    Raises:
        UserError: the record is unknown, or a setting is unknown, missing, or asks for what is not built.
    """
    _check_record(record)
    given = dict(settings)
    try:
        config = _march(given, record)
    except KeyError as error:
        raise UserError(f"the record's settings must have {error.args[0]}") from error
    if given:
        raise UserError(f"{min(given)} must be left out: it is not a model setting that is built")
    return GPTConfig(**config, compute_dtype=compute_dtype)


def _march(given: dict[str, Any], record: str) -> dict[str, Any]:
    _refuse(given, dtg=False, dtg_enabled=False, mtp_num_heads=0, gated_attention=False, value_residual=False)
    given.pop("mtp_loss_weight", None)
    activation = "leaky_relu2" if record == "2026-03-23" else "relu2"
    config = _shared(given, activation, rope_length=_ROPE_LENGTH)
    buckets, bigram_dim = given.pop("bigram_vocab_size", 2048), given.pop("bigram_dim", 128)
    exclusive = given.pop("xsa_last_n", 4)
    value_dim, value_layers = given.pop("ve_dim", 128), given.pop("ve_layers", "9,10")
    has_values = given.pop("ve_enabled", True) and value_layers
    config["parts"] = PartsConfig(
        bigram_hash=BigramHashConfig(buckets=buckets, dim=bigram_dim) if buckets else None,
        smear_gate=SmearGateConfig(),
        value_embedding=ValueEmbeddingConfig(layers=value_layers, dim=value_dim) if has_values else None,
        exclusive=ExclusiveConfig(layers=f"last {exclusive}") if exclusive else None,
    )
    return config


def _shared(given: dict[str, Any], activation: Any, *, rope_length: int | None) -> dict[str, Any]:
    """Takes the settings that all records have out of ``given``, as arguments of ``GPTConfig``."""
    tied, std, dim = given.pop("tie_embeddings"), given.pop("tied_embed_init_std", 0.005), given["model_dim"]
    rotary_dims = given.pop("rope_dims", 16)
    heads = given.pop("num_heads")
    whole = not 0 < rotary_dims < dim // heads
    return {
        "vocab_size": given.pop("vocab_size"),
        "dim": given.pop("model_dim"),
        "num_layers": given.pop("num_layers"),
        # The programs leave an untied embedding at torch's own N(0, 1).
        "embedding_std": float(std) if tied else 1.0,
        "attention": AttentionConfig(
            num_heads=heads,
            num_kv_heads=given.pop("num_kv_heads"),
            qk_gain=given.pop("qk_gain_init"),
            rope_base=given.pop("rope_base"),
            rotary_dims=None if whole else rotary_dims,
            rope_length=rope_length,
        ),
        "mlp": MLPConfig(expansion=int(given.pop("mlp_mult") * dim) / dim, activation=activation),
        "head": HeadConfig(tied=bool(tied), softcap=given.pop("logit_softcap")),
        "matrix_init": "orthogonal",
        "norm_scale": "depth" if given.pop("ln_scale", True) else "none",
    }


def _refuse(given: dict[str, Any], **built: Any) -> None:
    """Removes settings that are built with one value only, and raises a UserError for other values."""
    for name, value in built.items():
        got = given.pop(name, value)
        if got != value:
            raise UserError(f"{name} must be {value}: nothing else is built, got {got!r:.100}")


def _check_record(record: str) -> None:
    if record not in RECORDS:
        raise UserError(f"record must be one of {', '.join(RECORDS)}, got {record!r:.100}")


_MARCH_NAMES = (
    ("bigram.embed.weight", "input_parts.bigram_hash.embedding.weight"),
    ("bigram.proj.weight", "input_parts.bigram_hash.proj.weight"),
    ("bigram.scale", "input_parts.bigram_hash.scale"),
    ("smear.gate", "input_parts.smear_gate.gate"),
    ("ve_shared.embed.weight", "value_source.embedding.weight"),
    ("ve_shared.proj.weight", "value_source.proj.weight"),
    ("ve_shared.scale", "value_source.scale"),
)
"""The names of the programs of March and plgolf's, of tensors that the reference program does not have."""


def weights_from_record(
    weights: Mapping[str, Tensor | NDArray[Any]], record: str, config: GPTConfig
) -> dict[str, Tensor]:
    """Renames the parameters of a record's program, or their gradients, to plgolf's names.

    Args:
        weights: tensors or arrays, which are not copied.
        record: the record.
        config: the model, from ``config_from_record``.

    Raises:
        UserError: the record is unknown.
    """
    names = dict(_names(record, config))
    return {
        names.get(name) or weight_name_from_reference(name): torch.as_tensor(value)
        for name, value in weights.items()
    }


def weights_to_record(
    named_tensors: Mapping[str, Tensor | NDArray[Any]], record: str, config: GPTConfig
) -> dict[str, Tensor]:
    """Renames plgolf's parameters, or their gradients, to the names of a record's program.

    Args:
        named_tensors: tensors or arrays, which are not copied.
        record: the record.
        config: the model, from ``config_from_record``.

    Raises:
        UserError: the record is unknown.
    """
    names = {ours: theirs for theirs, ours in _names(record, config)}
    return {
        names.get(name) or weight_name_to_reference(name): torch.as_tensor(value)
        for name, value in named_tensors.items()
    }


def _names(record: str, config: GPTConfig) -> Iterator[tuple[str, str]]:
    """Yields the record's name and plgolf's where they follow no rule of the reference program."""
    _check_record(record)
    yield from _MARCH_NAMES
    values = config.parts.value_embedding
    for index, layer in enumerate(values.layers.split(",") if values else ()):
        ours = f"blocks.{int(layer)}.attention.value_parts.value_embedding.scale"
        yield f"ve_layer_scales.{index}", ours
