"""Going on from a checkpoint: what must be as it was, and where Lightning's loops stand then."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim import Optimizer

from plgolf.artifact import SUFFIX
from plgolf.config import config_to_dict
from plgolf.distributed import all_gather_floats
from plgolf.errors import UserError
from plgolf.model import GPTConfig
from plgolf.training.checkpoints.files import read_checkpoint

_MOST = 2**53
_MOST_STEPS = 2**32
"""No run counts further."""


def check_same(saved: Mapping[str, Any], ours: Mapping[str, Any], *, allowed: Sequence[str]) -> None:
    """Compares what a checkpoint was made with to what is to go on with it.

    Args:
        saved: nested settings and facts of the checkpoint.
        ours: the same of this run.
        allowed: dotted names that may differ, with all below them.

    Raises:
        UserError: one differs; the message has both values.

    >>> check_same({"data": {"seq_len": 64}}, {"data": {"seq_len": 128}}, allowed=["data.seq_len"])
    """
    before, now = _flat(saved), _flat(ours)
    for name in dict.fromkeys([*now, *before]):
        if any(name == free or name.startswith(f"{free}.") for free in allowed):
            continue
        then, here = before.get(name), now.get(name)
        if type(then) is not type(here) or then != here:
            raise UserError(
                f"{name} must be the checkpoint's {_short(then)}, got {_short(here)} "
                f"(--checkpoint.allow_changed=[{name}] goes on all the same)"
            )


def _short(value: Any) -> str:
    return " ".join(f"{value}"[:200].split())


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{name}": leaf for name, leaf in _flat(value).items()})
        else:
            flat[key] = value
    return flat


def check_same_model(checkpoint: Mapping[str, Any], config: GPTConfig, *, allowed: Sequence[str]) -> None:
    """Raises a UserError that names both values if a checkpoint is of another architecture."""
    saved = checkpoint.get("gpt_config")
    if not isinstance(saved, Mapping):
        raise UserError("is no checkpoint of plgolf: it has no gpt_config")
    check_same({"model": {"gpt": saved}}, {"model": {"gpt": config_to_dict(config)}}, allowed=allowed)


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
    """Says what keeps a fit from going on, before it has overwritten anything of the earlier one.

    Args:
        path: the checkpoint.
        config: the architecture of the fit to be.
        data: what must be as it was of its data.
        max_steps: its steps; -1 for no limit.
        allowed: what may differ all the same.

    Raises:
        UserError: the checkpoint is malformed, or of another run than this one.
    """
    if path.endswith(SUFFIX):
        raise UserError(f"{path}: fit cannot go on from an artifact, it holds no optimizer state")
    checkpoint = read_checkpoint(path)
    try:
        check_same_model(checkpoint, config, allowed=allowed)
        saved = {"data": checkpoint.get("ShardDataModule", {})}
        check_same(saved, {"data": data}, allowed=allowed)
        done = step_of(checkpoint)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if 0 <= max_steps < done:
        raise UserError(f"trainer.max_steps must be at least the {done} steps of {path}, got {max_steps}")


def check_same_start(trainer: Trainer) -> None:
    """Raises a UserError if ranks are not at the same step: if one could not see the checkpoint."""
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
    """Reads an integer of a checkpoint; raises a UserError if it is none, or out of range."""
    count = values.get(name, default)
    if type(count) is not int or not least <= count <= most:
        raise UserError(f"the checkpoint's {name} must be an integer from {least}, got {_short(count)}")
    return count


def step_of(checkpoint: Mapping[str, Any]) -> int:
    """Reads how many optimizer steps a checkpoint comes after; raises a UserError if it does not say."""
    return count_of(checkpoint, "global_step", most=_MOST_STEPS)


def place_schedule(checkpoint: dict[str, Any], *, num_groups: int) -> None:
    """Writes all there is to know of a LambdaLR to a checkpoint; the base learning rates are this run's."""
    step = checkpoint["global_step"]
    checkpoint["lr_schedulers"] = [
        {"last_epoch": step, "_step_count": step + 1, "lr_lambdas": [None] * num_groups}
    ]


def place_loops(checkpoint: dict[str, Any], trainer: Trainer, *, validated_step: int) -> None:
    """Puts Lightning's loops at the start of the step that follows the checkpoint; checks callbacks.

    A checkpoint may have been written amid a step's micro-batches, of which there may have been another
    number, and before or after the validation that is due at its step. Lightning would skip that validation
    either way.

    Args:
        checkpoint: what Lightning restores itself from; changed in place.
        trainer: the trainer, whose batches are cut.
        validated_step: the last step whose weights were validated when the checkpoint was written.

    Raises:
        UserError: the checkpoint's counters are not Lightning's, or its callbacks have no states.
    """
    states = checkpoint.get("callbacks", {})
    if not isinstance(states, dict) or not all(isinstance(state, dict) for state in states.values()):
        raise UserError(f"the checkpoint's callbacks must be states by name, got {_short(states)}")
    saved = checkpoint.get("loops")
    loops: Any = saved.get("fit_loop") if isinstance(saved, dict) else None
    fresh = trainer.fit_loop.state_dict()
    _check_counters({**loops, "state_dict": {}} if isinstance(loops, dict) else loops, fresh, "loops")
    if trainer.limit_train_batches not in (None, 1.0):
        raise UserError(
            "trainer.limit_train_batches must be left alone to go on from a checkpoint, "
            f"got {trainer.limit_train_batches}"
        )
    step = step_of(checkpoint)
    here = step * trainer.accumulate_grad_batches
    batches = loops["epoch_loop.batch_progress"]
    batches["is_last_batch"] = False
    epochs = loops["epoch_progress"] = fresh["epoch_progress"]
    for kind in ("total", "current"):
        batches[kind] = dict.fromkeys(batches[kind], here)
        epochs[kind].update(ready=1, started=1)  # One endless epoch, wherever it was left.
    steps = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]
    steps.update(ready=step, completed=step)
    interval = trainer.val_check_interval
    due = isinstance(interval, int) and here % interval == 0
    # Lightning counts the round in which it only makes up for that validation, or passes it over, as a step.
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = step - due
    validation = loops["epoch_loop.val_loop.batch_progress"] = fresh["epoch_loop.val_loop.batch_progress"]
    if step and validated_step != step:  # As if interrupted within it.
        validation["total"].update(ready=1, started=1)
    loops["state_dict"] = {}


def _check_counters(saved: Any, fresh: Any, where: str) -> None:
    if isinstance(fresh, dict):
        if not isinstance(saved, dict) or set(saved) != set(fresh):
            raise UserError(f"the checkpoint's {where} must have Lightning's own keys")
        for key, value in fresh.items():
            _check_counters(saved[key], value, f"{where}.{key}")
    elif type(saved) is not type(fresh) or not 0 <= saved <= _MOST:
        raise UserError(f"the checkpoint's {where} must be a count, got {_short(saved)}")


def check_optimizer_state(checkpoint: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Tries a checkpoint's optimizer state on an optimizer like the one it is meant for.

    Raises:
        UserError: it does not fit.
    """
    # Fused kernels, MuonAdam's among them, do not look at shapes; other optimizers have moments of any.
    fused = any(group.get("fused") for group in optimizer.param_groups)
    try:
        [saved] = checkpoint["optimizer_states"]
        optimizer.load_state_dict(saved)
    except Exception as error:
        # Optimizers take it for granted that they have written it, and fail in any way if they have not.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"the checkpoint's optimizer state does not fit: {reason}") from error
    for group in optimizer.param_groups:
        count_of(group, "step", default=0)
        for p in group["params"]:
            _check_moments(optimizer.state.get(p, {}), p, fused=fused)


def _check_moments(state: Any, p: Tensor, *, fused: bool) -> None:
    if not isinstance(state, dict):
        raise UserError(f"the checkpoint's optimizer state must hold moments by name, got {_short(state)}")
    for name, value in state.items():
        if not fused:
            fits = isinstance(value, Tensor | int | float)
        elif name == "step":
            fits = isinstance(value, Tensor) and value.shape == () and value.dtype is torch.float32
        else:
            fits = isinstance(value, Tensor) and value.shape == p.shape and value.is_contiguous()
            fits = fits and value.dtype is p.dtype
        if not fits:
            what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"the checkpoint's optimizer state {name} must have its parameter's shape {tuple(p.shape)} "
                f"and dtype, got {what}"
            )
