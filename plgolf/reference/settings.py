"""Model settings of the reference program: its flat configuration, and what its weights show."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from plgolf.errors import UserError
from plgolf.model import AttentionConfig, GPTConfig, HeadConfig, MLPConfig


def gpt_config_from_reference(
    settings: Mapping[str, Any], compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
) -> GPTConfig:
    """Translates the reference's model settings.

    Args:
        settings: ``vocab_size, num_layers, model_dim, num_heads, num_kv_heads, mlp_mult, tie_embeddings,
            tied_embed_init_std, logit_softcap, rope_base, qk_gain_init``.
        compute_dtype: dtype of the residual stream; the reference's is bfloat16.

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
        raise UserError(f"{min(given)} must be left out: the reference has no such model setting")
    return config


def gpt_config_from_weights(state_dict: Mapping[str, Tensor]) -> GPTConfig:
    """Infers the architecture of a reference artifact from its tensors, by the reference's names.

    Weights do not show the rotary base, the soft cap and the initial values: these get the reference's
    defaults.

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
        raise UserError(f"must hold a model of the reference: {error} is missing or malformed") from error
