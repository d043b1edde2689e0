"""An optimizer's groups and mode: what the schedule sets, and what a resumed run takes from where."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from plgolf.errors import UserError
from plgolf.model import GPT
from plgolf.optim import Schedule
from plgolf.progress import RunProgress
from plgolf.roles import param_groups

_OF_MUON_ADAM = {"betas", "eps", "weight_decay", "decay", "bias_correction", "head_rows"}
"""Group settings of ``MuonAdam`` that come from the configurations and groups its constructor takes."""


def factor_of(optimizer: Optimizer) -> float:
    """Returns the factor on the base learning rates; 1 without a schedule, or if all of them are 0."""
    scheduled = (group for group in optimizer.param_groups if group.get("initial_lr"))
    return next((float(group["lr"] / group["initial_lr"]) for group in scheduled), 1.0)


def set_learning_rates(optimizer: Optimizer, factor: float) -> None:
    """Sets each group's learning rate to its base times ``factor``."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # A compiled optimizer step may hold the tensor.
            group["lr"].fill_(group["initial_lr"] * factor)
        else:
            group["lr"] = group["initial_lr"] * factor


def make_optimizer(make: Callable[[Any], Optimizer], gpt: GPT) -> Optimizer:
    """Makes the optimizer of a model.

    Args:
        make: makes it from groups of parameters by role.
        gpt: the model.

    Raises:
        UserError: its settings are refused, or it needs a closure.
    """
    try:
        optimizer = make(param_groups(gpt))
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(f"model.optimizer: {' '.join(str(error).split())}") from error
    check_optimizer(optimizer)
    return optimizer


def make_scheduler(
    optimizer: Optimizer,
    progress: Callable[[int], RunProgress],
    schedule: Schedule,
    others: Mapping[str, Schedule] | None,
) -> LambdaLR:
    """Makes the scheduler that sets the numbers of each step.

    Args:
        optimizer: newly made.
        progress: returns how far the run is after a number of steps.
        schedule: factor on the learning rates.
        others: factors on other numbers, by name.

    Raises:
        UserError: the optimizer does not have one of the other numbers.
    """
    if others:
        from plgolf.optim.group_schedules import GroupSchedules  # noqa: PLC0415 (packed where it is used)

        return GroupSchedules(optimizer, progress, schedule, others)
    return LambdaLR(optimizer, lambda step: schedule.factor(progress(step)))


def set_mode(optimizers: Iterable[Optimizer], *, training: bool) -> None:
    """Switches optimizers between the weights that they train and those that they want evaluated.

    Schedule-free optimizers (https://arxiv.org/abs/2405.15682) have ``train`` and ``eval`` for that.
    """
    for optimizer in optimizers:
        switch = getattr(optimizer, "train" if training else "eval", None)
        if callable(switch):
            switch()


def group_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Returns a copy of all entries of each group but its parameters."""
    return [
        {
            name: value.clone() if isinstance(value, Tensor) else value
            for name, value in group.items()
            if name != "params"
        }
        for group in optimizer.param_groups
    ]


def apply_changed_settings(
    saved: Sequence[dict[str, Any]], optimizer: Optimizer, before: Sequence[dict[str, Any]] | None
) -> None:
    """Writes what this run's configuration changes to the groups that a checkpoint restores.

    Everything else stays as it was saved: optimizers such as Prodigy (https://arxiv.org/abs/2306.06101) and
    schedule-free ones (https://arxiv.org/abs/2405.15682) keep their progress in their groups.

    Args:
        saved: groups of the checkpoint; changed in place.
        optimizer: newly made from this run's configuration.
        before: ``group_settings`` of the optimizer that the checkpoint's run made from its configuration;
            None for a checkpoint without: then settings that the constructor takes override.
    """
    now = group_settings(optimizer)
    configured = set(signature(type(optimizer)).parameters) | _OF_MUON_ADAM
    for index, (group, settings) in enumerate(zip(saved, now, strict=True)):
        group["initial_lr"] = settings["lr"]  # The schedule sets lr, from this.
        for name, value in settings.items():
            if (name in configured) if before is None else not _equal(before[index].get(name), value):
                group[name] = value


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return torch.equal(left, right)
    return type(left) is type(right) and bool(left == right)


def check_optimizer(optimizer: Optimizer) -> None:
    """Raises a UserError if an optimizer cannot step without a closure that recomputes the loss."""
    closure = signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is Parameter.empty:
        raise UserError(
            f"model.optimizer must step without a closure, got {type(optimizer).__name__}, "
            "which evaluates the loss several times in a step"
        )
