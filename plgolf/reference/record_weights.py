"""Weights of published records, under the names of their programs."""

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from plgolf.errors import UserError
from plgolf.model import GPT, GPTConfig
from plgolf.reference.names import weight_name_from_reference, weight_name_to_reference

RECORDS = ("2026-03-22", "2026-03-23", "2026-04-27")
_WITH_BANKS = RECORDS[-1]
_NAMES = {
    "bigram.embed.weight": "input_parts.bigram_hash.embedding.weight",
    "bigram.proj.weight": "input_parts.bigram_hash.proj.weight",
    "bigram.scale": "input_parts.bigram_hash.scale",
    "smear.gate": "input_parts.smear_gate.gate",
    "smear_gate.weight": "input_parts.smear_gate.proj.weight",
    "smear_lambda": "input_parts.smear_gate.strength",
    "ve_shared.embed.weight": "value_source.embedding.weight",
    "ve_shared.proj.weight": "value_source.proj.weight",
    "ve_shared.scale": "value_source.scale",
    "skip_gates": "skip_gates",
    "parallel_post_lambdas": "residual.post",
    "parallel_resid_lambdas": "residual.keep",
}
"""The records' names and plgolf's, of tensors of the whole model that the reference program does not have."""
_BANKS = {
    "qo_bank": ("attention.q_proj", "attention.out_proj"),
    "kv_bank": ("attention.k_proj", "attention.v_proj"),
    "mlp_up_bank": ("mlp.up_proj",),
    "mlp_down_bank": ("mlp.down_proj",),
}
"""Stacks of matrices: those of the first kind for all layers, then those of the second."""


def weights_from_record(
    weights: Mapping[str, Tensor | NDArray[Any]], record: str, config: GPTConfig
) -> dict[str, Tensor]:
    """Renames the parameters of a record's program, or their gradients, to plgolf's names.

    Parameters of techniques that the configuration does not have are left out.

    Args:
        weights: tensors or arrays; matrices alone or in the banks of later programs.
        record: the record.
        config: the model, from ``config_from_record``.

    Raises:
        UserError: the record is unknown, or a bank has another number of matrices than the model.
    """
    names, found = _names(record, config), dict[str, Tensor]()
    for name, value in weights.items():
        tensor = _tensor(value)
        if name in _BANKS:
            if len(tensor) != len(inside := _in_bank(name, config)):
                raise UserError(f"{name} must have {len(inside)} matrices, got {len(tensor)}")
            found |= dict(zip(inside, tensor, strict=True))
        elif name in names:
            found[names[name]] = tensor
        elif not _is_optional(name):
            found[weight_name_from_reference(name)] = tensor
    return found


def weights_to_record(
    named_tensors: Mapping[str, Tensor | NDArray[Any]], record: str, config: GPTConfig
) -> dict[str, Tensor]:
    """Renames plgolf's parameters, or their gradients, to the names of a record's program.

    Matrices of 2026-04-27 are stacked in the program's banks; those of both programs of March are alone.

    Args:
        named_tensors: tensors or arrays; of a bank all matrices or none.
        record: the record.
        config: the model, from ``config_from_record``.

    Raises:
        UserError: the record is unknown, or a matrix of a bank is missing.
    """
    theirs = {ours: name for name, ours in _names(record, config).items()}
    left = {name: _tensor(value) for name, value in named_tensors.items()}
    found = {}
    for bank in _BANKS if record == _WITH_BANKS else ():
        inside = [name for name in _in_bank(bank, config) if name in left]
        if inside and inside != _in_bank(bank, config):
            raise UserError(f"named_tensors must have all matrices of {bank} or none, got {len(inside)}")
        if inside:
            found[bank] = torch.stack([left.pop(name) for name in inside])
    return found | {theirs.get(n) or weight_name_to_reference(n): tensor for n, tensor in left.items()}


def _tensor(value: Tensor | NDArray[Any]) -> Tensor:
    if not isinstance(value, Tensor):
        value = torch.from_numpy(value if value.flags.writeable else value.copy())
    return value.detach()


def _in_bank(bank: str, config: GPTConfig) -> list[str]:
    layers = range(config.num_layers)
    return [f"blocks.{layer}.{kind}.weight" for kind in _BANKS[bank] for layer in layers]


def _names(record: str, config: GPTConfig) -> dict[str, str]:
    """Returns plgolf's names by the record's, of the model's tensors that the reference does not have."""
    check_record(record)
    values, names = config.parts.value_embedding, dict(_NAMES)
    for index, layer in enumerate(values.layers.split(",") if values else ()):
        ours = f"blocks.{int(layer)}.attention.value_parts.value_embedding.scale"
        names[f"ve_layer_scales.{index}"] = ours
    for index in range(config.num_layers):
        ours = f"blocks.{index}.attention.head_parts.output_gate.proj.weight"
        names[f"blocks.{index}.attn.attn_gate_w"] = ours
        gate = f"blocks.{index}.layer_parts.depth_gate"
        names |= {f"blocks.{index}.dtg_gate.weight": f"{gate}.proj.weight"}
        names |= {f"blocks.{index}.dtg_gate.bias": f"{gate}.bias"}
    with torch.device("meta"):
        present = GPT(config).state_dict().keys()
    return {theirs: ours for theirs, ours in names.items() if ours in present}


def _is_optional(name: str) -> bool:
    parts = ("ve_layer_scales.", ".attn_gate_w", ".dtg_gate.")
    return name in _NAMES or any(part in name for part in parts)


def check_record(record: str) -> None:
    """Raises a UserError if the record is unknown."""
    if record not in RECORDS:
        raise UserError(f"record must be one of {', '.join(RECORDS)}, got {record!r:.100}")
