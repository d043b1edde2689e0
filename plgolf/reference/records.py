"""Settings and weights of published records, under the names of their programs.

The records are folders of https://github.com/openai/parameter-golf. Those of March have the same settings.
"""

from collections.abc import Mapping
from typing import Any, Literal

from plgolf.errors import UserError
from plgolf.model import AttentionConfig, GPTConfig, HeadConfig, MLPConfig
from plgolf.model.depth import LanesConfig, RecurrenceConfig
from plgolf.model.parts import PartsConfig
from plgolf.model.parts.bigram_hash import BigramHashConfig
from plgolf.model.parts.depth_gate import DepthGateConfig
from plgolf.model.parts.exclusive import ExclusiveConfig
from plgolf.model.parts.output_gate import OutputGateConfig
from plgolf.model.parts.smear_gate import SmearGateConfig
from plgolf.model.parts.value_embedding import ValueEmbeddingConfig
from plgolf.reference.record_weights import RECORDS, check_record, weights_from_record, weights_to_record

__all__ = ["RECORDS", "config_from_record", "weights_from_record", "weights_to_record"]

_APRIL = RECORDS[-1]
_ROPE_LENGTH = 1024
"""Constant of the programs of March, whatever the length of training."""
_BOS_ID = 1


def config_from_record(
    settings: Mapping[str, Any], record: str, *, compute_dtype: Literal["float32", "bfloat16"] = "float32"
) -> GPTConfig:
    """Translates the model settings of a record's program.

    Args:
        settings: under the program's names; those that are missing have the program's defaults.
        record: ``2026-03-22``, ``2026-03-23`` or ``2026-04-27``.
        compute_dtype: dtype of the residual stream.

    Raises:
        UserError: the record is unknown, or a setting is unknown, missing, or asks for what is not built.
    """
    check_record(record)
    given = dict(settings)
    try:
        config = _april(given) if record == _APRIL else _march(given, record)
    except KeyError as error:
        raise UserError(f"the record's settings must have {error.args[0]}") from error
    if given:
        raise UserError(f"{min(given)} must be left out: it is not a model setting that is built")
    return GPTConfig(**config, compute_dtype=compute_dtype)


def _march(given: dict[str, Any], record: str) -> dict[str, Any]:
    _refuse(given, mtp_num_heads=0, gated_attention=False, value_residual=False)
    given.pop("mtp_loss_weight", None)
    has_gate = any([given.pop("dtg", False), given.pop("dtg_enabled", False)])
    activation = "leaky_relu2" if record == "2026-03-23" else "relu2"
    config = _shared(given, activation, rope_length=_ROPE_LENGTH)
    buckets, bigram_dim = given.pop("bigram_vocab_size", 2048), given.pop("bigram_dim", 128)
    exclusive = given.pop("xsa_last_n", 4)
    value_dim, value_layers = given.pop("ve_dim", 128), given.pop("ve_layers", "9,10")
    has_values = given.pop("ve_enabled", True) and value_layers
    # The first program divides projections by sqrt(2 * layers) at the start; the others begin as 0.
    gain = (2 * config["num_layers"]) ** -0.5 if record == RECORDS[0] else 1.0
    attention = config["attention"]
    value_width = attention.num_kv_heads * attention.head_dim(config["dim"])
    bigram: Any = {"dim": bigram_dim, "gain": 1.0 if bigram_dim == config["dim"] else gain}
    values: Any = {"dim": value_dim, "gain": 1.0 if value_dim == value_width else gain}
    config["parts"] = PartsConfig(
        bigram_hash=BigramHashConfig(buckets=buckets, **bigram) if buckets else None,
        smear_gate=SmearGateConfig(),
        value_embedding=ValueEmbeddingConfig(layers=value_layers, **values) if has_values else None,
        exclusive=ExclusiveConfig(layers=f"last {exclusive}") if exclusive else None,
        depth_gate=DepthGateConfig() if has_gate else None,
    )
    return config


def _april(given: dict[str, Any]) -> dict[str, Any]:
    _refuse(given, gated_attn_enabled=False, attn_out_gate_enabled=False)
    yarn, length = given.pop("rope_yarn", False), given.pop("rope_train_seq_len", 2048)
    config = _shared(given, "leaky_relu2", rope_length=length if yarn else None)
    for unused in ("train_seq_len", "eval_seq_len", "fused_ce_enabled"):
        given.pop(unused, None)
    loops, first, last = given.pop("num_loops", 2), given.pop("loop_start", 3), given.pop("loop_end", 5)
    starts, split = given.pop("enable_looping_at", 0.35), given.pop("parallel_start_layer", 8)
    lane: Any = {"attn": "attention"}.get(end := given.pop("parallel_final_lane", "mean"), end)
    window, scale = given.pop("gate_window", 12), given.pop("sparse_attn_gate_scale", 1.0)
    has_gate, has_smear = given.pop("sparse_attn_gate_enabled", False), given.pop("smear_gate_enabled", False)
    exclusive = min(given.pop("xsa_last_n", 11), config["num_layers"])
    return config | {
        "skips": "gated" if given.pop("skip_gates_enabled", True) else "plain",
        "recurrence": RecurrenceConfig(layers=f"{first}-{last}", times=loops + 1, starts=starts)
        if loops
        else None,
        "lanes": LanesConfig(layers=f"from {split}", merge=lane) if split else None,
        "parts": PartsConfig(
            smear_gate=SmearGateConfig(window=window, bos_id=_BOS_ID) if has_smear else None,
            exclusive=ExclusiveConfig(layers=f"last {exclusive}") if exclusive else None,
            output_gate=OutputGateConfig(window=window, scale=scale) if has_gate else None,
        ),
    }


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
