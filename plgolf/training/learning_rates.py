"""The learning rates of a run: what each group began with, times one factor for all."""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class LearningRates(LambdaLR):
    """A LambdaLR that asks for a step's factor once, instead of for each group, and looks for no misuse."""

    def step(self, epoch: int | None = None) -> None:
        self._step_count += 1
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        factor = self.lr_lambdas[0](self.last_epoch)
        self._last_lr = [base * factor for base in self.base_lrs]
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            if isinstance(group["lr"], Tensor):  # A compiled step may hold it.
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr


def factor_of(optimizer: Optimizer) -> float:
    """Returns what the learning rates are multiplied by; 1 if they are all 0 anyway."""
    groups = optimizer.param_groups
    return next((float(group["lr"] / group["initial_lr"]) for group in groups if group["initial_lr"]), 1.0)


def group_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Returns what each group was made with; not how far it has come, which is in checkpoints."""
    return [
        {
            name: value.clone() if isinstance(value, Tensor) else value
            for name, value in group.items()
            if name not in ("params", "step")
        }
        for group in optimizer.param_groups
    ]


def restore_settings(optimizer: Optimizer, settings: list[dict[str, Any]], factor: float) -> None:
    """Puts settings back that a checkpoint has taken the place of.

    Args:
        optimizer: as it was restored.
        settings: of ``group_settings``.
        factor: what the schedule multiplies the learning rates of the next step by.
    """
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own, initial_lr=own["lr"], lr=own["lr"] * factor)
