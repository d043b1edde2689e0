"""Rows of metrics for loggers and callbacks, numbered by completed optimizer steps."""

from typing import Any

import torch
from lightning.pytorch import Trainer

from plgolf.evaluate.score import Score
from plgolf.roles import Role

VALIDATION_METRICS = ("val/bpb", "val/loss")
"""Metrics of each validation; ``val/bpb_raw`` comes with byte side-cars."""

TRAINING_METRICS = ("train/loss", "train/gradient_norm", "train/step_ms", "train/lr_factor", "train/momentum")
"""Metrics of a training row; ``train/momentum`` only if the optimizer has one for matrices."""


def record(module: Any, values: dict[str, float]) -> None:
    """Gives metrics to callbacks, loggers and, outside a fit, to the caller of the Trainer.

    In a fit loggers get them directly, with the training seconds: Lightning would count their steps from 0,
    and takes a millisecond. After a validation callbacks also get the metrics of the last step.
    """
    trainer = module.trainer
    if trainer.state.fn != "fit":
        module.log_dict(values)
        return
    latest = training_row(trainer, module) if trainer.validating else {}
    told = {**latest, **values}
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in told.items()})
    row = {**values, "train/seconds": module.run.clock.elapsed_seconds}
    for logger in trainer.loggers:
        logger.log_metrics(row, step=trainer.global_step)


def share_scored(trainer: Trainer, score: Score) -> float:
    """Returns the share of the validation split that a score is of; 1.0 if the split's size is unknown."""
    split = getattr(trainer.datamodule, "val_split", None)  # type: ignore[attr-defined]
    return score.num_tokens / split.all_tokens if split else 1.0


def percent(share: float) -> str:
    """Formats a share for people.

    >>> percent(0.12345), percent(0.9999)
    ('12.3 %', '99.9 %')
    """
    return f"{min(100 * share, 99.9):.3g} %"


def has_row(trainer: Trainer) -> bool:
    """Returns True if the last step gets a row."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and trainer.global_step % every == 0


def training_row(trainer: Trainer, module: Any) -> dict[str, float]:
    """Returns the metrics of the last step, and the mean time of the steps since the last row."""
    recent = module.run.clock.step_seconds[-trainer.log_every_n_steps :]  # type: ignore[attr-defined]
    row = {
        "train/loss": module.run.train_loss,
        "train/gradient_norm": module.run.gradient_norm,
        "train/step_ms": 1000 * sum(recent) / max(len(recent), 1),
        "train/lr_factor": module.run.lr_factor,
    }
    for group in trainer.optimizers[0].param_groups:
        if group.get("role") == Role.MATRIX and "momentum" in group:
            row["train/momentum"] = float(group["momentum"])
    return row
