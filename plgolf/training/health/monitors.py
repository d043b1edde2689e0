"""Metrics that callbacks watch: checked before the first step, not when the time budget is spent."""

import difflib
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor

from plgolf.errors import UserError
from plgolf.training.logs.metrics_row import TRAINING_METRICS, VALIDATION_METRICS

_LIBRARIES = ("plgolf", "lightning", "pytorch_lightning", "torch")


def check_monitors(trainer: Trainer, module: Any, data: Any) -> None:
    """Checks that each metric that a callback monitors will be logged.

    A module or a callback from outside plgolf and Lightning may log metrics of its own, so with one of those
    every name passes.

    Args:
        trainer: the trainer of a fit.
        module: its module.
        data: its datamodule after ``setup``, which knows whether there will be a ``val/bpb_raw``.

    Raises:
        UserError: a monitored metric does not exist; the message suggests one.
    """
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if any(type(part).__module__.partition(".")[0] not in _LIBRARIES for part in (module, *callbacks)):
        return
    known = [*VALIDATION_METRICS, *TRAINING_METRICS]
    split = getattr(data, "val_split", None)
    if split is None or split.raw_bytes is not None:
        known.append("val/bpb_raw")
    has_rates = any(isinstance(callback, LearningRateMonitor) for callback in callbacks)
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if not isinstance(monitor, str) or monitor in known or (has_rates and monitor.startswith("lr")):
            continue
        raise UserError(
            f"trainer.callbacks: {type(callback).__name__}.monitor must be one of {', '.join(known)}, "
            f"got {monitor:.100}{_suggestion(monitor, known)}"
        )


def _suggestion(monitor: str, known: list[str]) -> str:
    near = difflib.get_close_matches(monitor, known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""
