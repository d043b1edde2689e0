"""Checks a checkpoint before a run continues from it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.optim import Optimizer

from plgolf.artifact import SUFFIXES
from plgolf.distributed import all_gather_floats
from plgolf.errors import UserError
from plgolf.model import GPTConfig
from plgolf.training.checkpoints.compare import check_same_data, check_same_model, short
from plgolf.training.checkpoints.files import read_checkpoint

_MOST = 2**53
_MOST_STEPS = 2**32
"""Bounds on counters in a checkpoint; no run reaches them."""


def check_callback_states(checkpoint: Mapping[str, Any], callbacks: Sequence[Callback]) -> None:
    """Raises a UserError if a checkpoint's callbacks are not states by name, or its averages have none."""
    if "averages" in checkpoint and not any(hasattr(callback, "averages") for callback in callbacks):
        raise UserError("averages must be set: the checkpoint's weights are averages")
    states = checkpoint.get("callbacks", {})
    if not isinstance(states, dict) or not all(isinstance(state, dict) for state in states.values()):
        raise UserError(f"the checkpoint's callbacks must be states by name, got {short(states)}")


def check_weights(checkpoint: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Raises a UserError if a checkpoint's weights have other names, shapes or dtypes than a module's."""
    saved = checkpoint.get("state_dict")
    if not isinstance(saved, Mapping) or set(saved) != set(weights):
        raise UserError("the checkpoint's state_dict must have the weights of the model, and nothing else")
    for name, ours in weights.items():
        tensor = saved[name]
        if not isinstance(tensor, Tensor) or (tensor.shape, tensor.dtype) != (ours.shape, ours.dtype):
            what = f"{getattr(tensor, 'dtype', type(tensor).__name__)} {tuple(getattr(tensor, 'shape', ()))}"
            raise UserError(f"the checkpoint's {name} must be {ours.dtype} {tuple(ours.shape)}, got {what}")


def check_resume(
    path: str,
    *,
    config: GPTConfig,
    data: Mapping[str, Any],
    max_steps: int,
    allowed: Sequence[str],
) -> None:
    """Raises a UserError if a fit cannot continue from a checkpoint, before files of a run are touched.

    Args:
        path: the checkpoint.
        config: architecture of the new fit.
        data: facts about its data that must equal the checkpoint's.
        max_steps: step limit of the new fit; -1 for no limit.
        allowed: dotted names that may differ.
    """
    if path.endswith(SUFFIXES):
        raise UserError(f"{path}: fit cannot continue from an artifact, which has no optimizer state")
    checkpoint = read_checkpoint(path)
    try:
        check_same_model(checkpoint, config, allowed=allowed)
        check_same_data(checkpoint.get("ShardDataModule", {}), data, allowed=allowed)
        done = step_of(checkpoint)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if 0 <= max_steps < done:
        raise UserError(f"trainer.max_steps must be at least the {done} steps of {path}, got {max_steps}")


def check_same_start(trainer: Trainer) -> None:
    """Raises a UserError if the ranks are not at the same step, because one did not see the checkpoint."""
    here = torch.tensor([trainer.global_step], dtype=torch.float64, device=trainer.strategy.root_device)
    steps = [int(step) for [step] in all_gather_floats(here)]
    other = next((rank for rank, step in enumerate(steps) if step != steps[0]), 0)
    if other:
        raise UserError(
            f"all ranks must start at the same step: rank 0 is at {steps[0]}, rank {other} at {steps[other]} "
            "(do all machines see the same checkpoints?)"
        )


def count_of(
    values: Mapping[str, Any], name: str, *, least: int = 0, most: int = _MOST, default: int | None = None
) -> int:
    """Returns an integer of a checkpoint; raises a UserError if it is not one or out of range."""
    count = values.get(name, default)
    if type(count) is not int or not least <= count <= most:
        raise UserError(f"the checkpoint's {name} must be an integer from {least}, got {short(count)}")
    return count


def step_of(checkpoint: Mapping[str, Any]) -> int:
    """Returns the optimizer steps of a checkpoint; raises a UserError if it has none."""
    return count_of(checkpoint, "global_step", most=_MOST_STEPS)


def saved_group_settings(
    checkpoint: Mapping[str, Any], optimizer: Optimizer
) -> Sequence[dict[str, Any]] | None:
    """Returns how the optimizer's groups were configured; None if a checkpoint does not have that."""
    saved = checkpoint.get("group_settings")
    if saved is None:
        return None
    groups = optimizer.param_groups
    if not isinstance(saved, list) or [type(group) for group in saved] != [dict] * len(groups):
        raise UserError(f"the checkpoint's group_settings must be one dict for each of {len(groups)} groups")
    return saved


def check_optimizer_state(checkpoint: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Raises a UserError if a checkpoint's optimizer state does not fit this spare optimizer."""
    # Fused kernels, such as MuonAdam's, do not check shapes; other optimizers may have moments of any shape.
    fused = any(group.get("fused") for group in optimizer.param_groups)
    before = [dict(group) for group in optimizer.param_groups]
    try:
        [saved] = checkpoint["optimizer_states"]
        optimizer.load_state_dict(saved)
    except Exception as error:
        # Optimizers trust a state to be their own, and may raise any error if it is not.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"the checkpoint's optimizer state does not fit: {reason}") from error
    for group, ours in zip(optimizer.param_groups, before, strict=True):
        _check_group(group, ours)
        for p in group["params"]:
            _check_moments(optimizer.state.get(p, {}), p, fused=fused)


def _check_group(group: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raises a UserError if values of a group are not of the kinds that MuonAdam's have."""
    count_of(group, "step", default=0)
    for name, value in ours.items() if "role" in ours else ():
        found = group.get(name, value)
        kinds = {type(found), type(value)}
        if found != value if name == "role" else len(kinds) > 1 and kinds != {int, float}:
            raise UserError(
                f"the checkpoint's optimizer {name} must be like {short(value)}, got {short(found)}"
            )


def _check_moments(state: Any, p: Tensor, *, fused: bool) -> None:
    if not isinstance(state, dict):
        raise UserError(f"the checkpoint's optimizer state must hold moments by name, got {short(state)}")
    for name, value in state.items():
        if not fused:
            fits = isinstance(value, Tensor | int | float)
        elif name == "step":
            fits = isinstance(value, Tensor) and value.shape == () and value.dtype is torch.float32
        else:
            # Moments of rows and columns, which MuonAdam begins again if their shape is another.
            shape = getattr(value, "shape", None) if name == "second_moment" else p.shape
            alike = isinstance(value, Tensor) and (value.shape, value.dtype) == (shape, p.dtype)
            fits = alike and value.is_contiguous()
        if not fits:
            what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"the checkpoint's optimizer state {name} must have its parameter's shape {tuple(p.shape)} "
                f"and dtype, got {what}"
            )
