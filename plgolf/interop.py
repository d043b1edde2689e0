"""The reference program's names and files, read and written.

Its parameters are called otherwise, its configuration is flat, and its artifact carries no configuration.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from plgolf.errors import UserError
from plgolf.files import write_whole
from plgolf.model import AttentionConfig, GPTConfig, HeadConfig, MLPConfig
from plgolf.quantize.int8_zlib import (
    MAX_PAYLOAD_BYTES,
    dequantize_state_dict,
    pack,
    quantize_state_dict,
    unpack,
)
from plgolf.regular_files import read_regular

_NAMES = (
    ("tok_emb.", "embedding."),
    ("lm_head.", "head.proj."),
    ("attn_scale", "attention_scale"),
    ("resid_mix", "residual_mix"),
    ("attn.q_gain", "attention.qk_gain"),
    ("attn.c_q.", "attention.q_proj."),
    ("attn.c_k.", "attention.k_proj."),
    ("attn.c_v.", "attention.v_proj."),
    ("attn.proj.", "attention.out_proj."),
    ("mlp.fc.", "mlp.up_proj."),
    ("mlp.proj.", "mlp.down_proj."),
)
"""The reference's spelling and ours. Names not listed (``skip_weights``, ``mlp_scale``) are the same."""

_CONTROL = re.compile(r"attn_scale|mlp_scale|resid_mix|q_gain|skip_weight")


def weight_name_from_reference(name: str) -> str:
    """Translates a parameter name; one that the reference does not know stays as it is.

    >>> weight_name_from_reference("blocks.0.attn.c_q.weight")
    'blocks.0.attention.q_proj.weight'
    """
    return _rename(name, _NAMES)


def weight_name_to_reference(name: str) -> str:
    """Translates a parameter name the other way."""
    return _rename(name, tuple((ours, theirs) for theirs, ours in _NAMES))


def _rename(name: str, table: tuple[tuple[str, str], ...]) -> str:
    block = re.match(r"blocks\.\d+\.", name)
    prefix = block.group() if block else ""
    rest = name.removeprefix(prefix)
    for old, new in table:
        if rest.startswith(old):
            return f"{prefix}{new}{rest.removeprefix(old)}"
    return name


def weights_from_reference(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the reference's parameters to ours; the tensors are shared.

    Raises:
        UserError: one is there under both names.
    """
    renamed = {weight_name_from_reference(name): tensor for name, tensor in state_dict.items()}
    if len(renamed) != len(state_dict):
        ours = next(n for n in state_dict if n in renamed and weight_name_to_reference(n) != n)
        raise UserError(f"{ours!r:.100} must be there once, got it under the reference's name, too")
    return renamed


def weights_to_reference(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames our parameters to the reference's; the tensors are shared."""
    return {weight_name_to_reference(name): tensor for name, tensor in state_dict.items()}


def gpt_config_from_reference(
    settings: Mapping[str, Any], compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
) -> GPTConfig:
    """Translates the reference's model settings.

    Args:
        settings: ``vocab_size, num_layers, model_dim, num_heads, num_kv_heads, mlp_mult, tie_embeddings,
            tied_embed_init_std, logit_softcap, rope_base, qk_gain_init``.
        compute_dtype: dtype of the residual stream; the reference's is bfloat16.

    Returns:
        The configuration.

    Raises:
        UserError: a setting is missing, unknown or out of range.
    """
    given = dict(settings)
    try:
        tied = bool(given.pop("tie_embeddings"))
        tied_std = float(given.pop("tied_embed_init_std"))
        config = GPTConfig(
            vocab_size=given.pop("vocab_size"),
            dim=given.pop("model_dim"),
            num_layers=given.pop("num_layers"),
            # The reference leaves an untied embedding at torch's own N(0, 1).
            embedding_std=tied_std if tied else 1.0,
            compute_dtype=compute_dtype,
            attention=AttentionConfig(
                num_heads=given.pop("num_heads"),
                num_kv_heads=given.pop("num_kv_heads"),
                qk_gain=given.pop("qk_gain_init"),
                rope_base=given.pop("rope_base"),
            ),
            mlp=MLPConfig(expansion=float(given.pop("mlp_mult"))),
            head=HeadConfig(tied=tied, softcap=given.pop("logit_softcap")),
        )
    except KeyError as error:
        raise UserError(f"the reference's settings must have {error.args[0]}") from error
    if given:
        raise UserError(f"{min(given)} is no model setting of the reference")
    return config


def gpt_config_from_weights(state_dict: Mapping[str, Tensor]) -> GPTConfig:
    """Infers the architecture of a reference artifact from its tensors' shapes.

    The rotary base, the soft cap and the initial values leave no trace in the weights; they are taken to
    be the reference's defaults.

    Args:
        state_dict: tensors under the reference's names.

    Returns:
        The configuration.

    Raises:
        UserError: tensors are missing.
    """
    try:
        embedding = state_dict["tok_emb.weight"]
        query, key = (state_dict[f"blocks.0.attn.c_{x}.weight"] for x in "qk")
        num_heads = state_dict["blocks.0.attn.q_gain"].numel()
        dim = embedding.size(1)
        return GPTConfig(
            vocab_size=embedding.size(0),
            dim=dim,
            num_layers=len({name.split(".")[1] for name in state_dict if name.startswith("blocks.")}),
            compute_dtype="bfloat16" if embedding.dtype is torch.bfloat16 else "float32",
            attention=AttentionConfig(
                num_heads=num_heads, num_kv_heads=num_heads * key.size(0) // query.size(0)
            ),
            mlp=MLPConfig(expansion=state_dict["blocks.0.mlp.fc.weight"].size(0) / dim),
            head=HeadConfig(tied="lm_head.weight" not in state_dict),
        )
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"holds no model of the reference: {error} is missing or malformed") from error


def read_reference_artifact(path: str | Path) -> dict[str, Tensor]:
    """Reads an ``.int8.ptz`` file without running anything in it.

    Args:
        path: the file.

    Returns:
        Dequantised tensors under the reference's names, in their original dtypes.

    Raises:
        UserError: the file cannot be read or is malformed.
    """
    return dequantize_state_dict(read_artifact_dict(path))


def read_artifact_dict(path: str | Path) -> dict[str, Any]:
    """Reads an ``.int8.ptz`` file as the dict it holds.

    Raises:
        UserError: the file cannot be read or is malformed.
    """
    data = read_regular(Path(path), max_bytes=MAX_PAYLOAD_BYTES)
    try:
        return unpack(data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def write_reference_artifact(state_dict: Mapping[str, Tensor], path: str | Path) -> dict[str, int]:
    """Quantises tensors and writes them as the reference would.

    Args:
        state_dict: tensors under the reference's names.
        path: the file to write.

    Returns:
        The reference's six counters: ``param_count, num_tensors, num_float_tensors,
        num_nonfloat_tensors, baseline_tensor_bytes, int8_payload_bytes``.
    """
    obj, stats = quantize_state_dict(state_dict, is_control=is_control_name)
    write_whole(Path(path), pack(obj))
    return stats.as_dict()


def is_control_name(name: str) -> bool:
    """Says whether the reference keeps a (small) tensor of this name in float32."""
    return _CONTROL.search(name) is not None
