"""Translates parameter names between the reference program and plgolf."""

import re
from collections.abc import Mapping

from torch import Tensor

from plgolf.errors import UserError

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
"""The reference's name and plgolf's. Other names (``skip_weights``, ``mlp_scale``) are the same."""

_CONTROL = re.compile(r"attn_scale|mlp_scale|resid_mix|q_gain|skip_weight")


def weight_name_from_reference(name: str) -> str:
    """Translates a parameter name from the reference's to plgolf's; unknown names stay.

    >>> weight_name_from_reference("blocks.0.attn.c_q.weight")
    'blocks.0.attention.q_proj.weight'
    """
    return _rename(name, _NAMES)


def weight_name_to_reference(name: str) -> str:
    """Translates a parameter name from plgolf's to the reference's; unknown names stay."""
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
    """Renames the reference's parameters to plgolf's names; the tensors are not copied.

    Raises:
        UserError: a parameter is there under both names.
    """
    renamed = {weight_name_from_reference(name): tensor for name, tensor in state_dict.items()}
    if len(renamed) != len(state_dict):
        ours = next(n for n in state_dict if n in renamed and weight_name_to_reference(n) != n)
        raise UserError(f"{ours!r:.100} must be there once, got it also under the reference's name")
    return renamed


def weights_to_reference(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames plgolf's parameters to the reference's names; the tensors are not copied."""
    return {weight_name_to_reference(name): tensor for name, tensor in state_dict.items()}


def is_control_name(name: str) -> bool:
    """Returns True if the reference program keeps a small tensor of this name in float32."""
    return _CONTROL.search(name) is not None
