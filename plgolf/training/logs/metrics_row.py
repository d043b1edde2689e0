"""What loggers and callbacks are told of a run: a row of values, numbered by completed steps."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Optimizer

from plgolf.roles import Role
from plgolf.training.timing.clock import TrainClock


def record(module: LightningModule, values: dict[str, float]) -> None:
    """Tells callbacks through Lightning and loggers directly.

    Lightning counts a logger's steps from 0, and would show a metric named ``step`` to callbacks too.

    Args:
        module: the module, in a hook where Lightning lets it log.
        values: by name; loggers are told the training seconds too.
    """
    trainer = module.trainer
    module.log_dict(values, logger=False)
    row = {**values, "train/seconds": TrainClock.of(trainer).elapsed_seconds}
    for logger in trainer.loggers:
        logger.log_metrics(row, step=trainer.global_step)


def has_row(trainer: Trainer) -> bool:
    """Says whether the step just made gets a row."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and trainer.global_step % every == 0


def training_row(trainer: Trainer, module: Any) -> dict[str, float]:
    """Returns the values of the step just made, and the mean time of those since the row before."""
    recent = TrainClock.of(trainer).step_seconds[-trainer.log_every_n_steps :]  # type: ignore[attr-defined]
    row = {
        "train/loss": module.train_loss,
        "train/gradient_norm": module.gradient_norm,
        "train/step_ms": 1000 * sum(recent) / max(len(recent), 1),
        "train/lr_factor": module.lr_factor,
    }
    momentum = _momentum(trainer.optimizers[0])
    return row if momentum is None else {**row, "train/momentum": momentum}


def _momentum(optimizer: Optimizer) -> float | None:
    """Returns that of the matrices, where the optimizer has one."""
    groups = (group for group in optimizer.param_groups if group.get("role") == Role.MATRIX)
    return next((float(group["momentum"]) for group in groups if "momentum" in group), None)
