"""Assigns a role to every parameter by structure: one partition for the optimizer and the quantizer.

The weight of an ``nn.Embedding`` is an EMBEDDING, the weight of an ``nn.Linear`` is a MATRIX, and every
other parameter (gains, scales, mixing weights, whatever their shape) is a SCALAR. A module class may
declare ``role = Role.X``; the declaration covers all parameters below it. Names never decide.
"""

from collections.abc import Iterator
from enum import Enum
from typing import Any

from torch import nn


class Role(str, Enum):
    """The purpose of a parameter."""

    EMBEDDING = "embedding"
    """Token embedding: rows are looked up and, when tied, used as the head."""
    MATRIX = "matrix"
    """Linear map inside the blocks, whose updates Muon orthogonalises."""
    HEAD = "head"
    """Unembedding with weights of its own."""
    SCALAR = "scalar"
    """Gain, scale or mixing weight: a control parameter that is float32 everywhere."""


def _walk(module: nn.Module, prefix: str, inherited: Role | None) -> Iterator[tuple[str, Role]]:
    declared: Role | None = getattr(module, "role", None) or inherited
    for name, _ in module.named_parameters(recurse=False):
        if declared is not None:
            role = declared
        elif isinstance(module, nn.Embedding) and name == "weight":
            role = Role.EMBEDDING
        elif isinstance(module, nn.Linear) and name == "weight":
            role = Role.MATRIX
        else:
            role = Role.SCALAR
        yield prefix + name, role
    for name, child in module.named_children():
        yield from _walk(child, f"{prefix}{name}.", declared)


def parameter_roles(model: nn.Module) -> dict[str, Role]:
    """Assigns exactly one role to every parameter.

    Returns:
        Role by parameter name, in the order of ``model.named_parameters()``. A shared parameter is
        listed once, under its first name.

    >>> model = nn.ModuleDict({"table": nn.Embedding(4, 2), "map": nn.Linear(2, 2)})
    >>> {name: role.value for name, role in parameter_roles(model).items()}
    {'table.weight': 'embedding', 'map.weight': 'matrix', 'map.bias': 'scalar'}
    """
    roles = dict(_walk(model, "", None))
    return {name: roles[name] for name, _ in model.named_parameters()}


def param_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Groups the parameters by role, in the form that every ``torch.optim`` optimizer accepts.

    Returns:
        One group per role in use, in the order of ``Role``, with ``params`` and the role under two keys:
        ``role`` (read by ``MuonAdam``) and ``name`` (read by Lightning's LearningRateMonitor). That of
        matrices has the rows of an attention head in each as ``head_rows``, 0 where there are no heads: a
        module says which of its linear maps have heads of ``head_dim`` rows in ``maps_to_heads``.
    """
    roles = parameter_roles(model)
    heads = {
        getattr(module, name).weight: module.head_dim
        for module in model.modules()
        for name in getattr(module, "maps_to_heads", ())
    }
    groups: list[dict[str, Any]] = []
    for role in Role:
        params = [p for name, p in model.named_parameters() if roles[name] is role]
        if params:
            groups.append({"params": params, "role": role.value, "name": role.value})
            if role is Role.MATRIX:
                groups[-1]["head_rows"] = [heads.get(p, 0) for p in params]
    return groups
