"""The order of a model's layers during a run, where it changes with the run's progress."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, Trainer

from plgolf.errors import UserError
from plgolf.model import GPT
from plgolf.model.depth import visits
from plgolf.progress import RunProgress
from plgolf.training.logs.screen import say


class Phases(Callback):
    """Sets the order of layers before each step, by the clock that all ranks share.

    Validation, checkpoints and the artifact then have the order of the last step.
    """

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.on_train_batch_start(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        set_phase(pl_module.gpt, pl_module.run.clock.progress(trainer.global_step, trainer.max_steps))

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        if pl_module.gpt.visits != visits(pl_module.gpt.config, 1.0):
            say("recurrence: training ended before it starts; the model is exported without it")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        gpt = pl_module.gpt
        if gpt.visits != visits(gpt.config, 1.0):
            checkpoint["before_recurrence"] = True

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        restore_order(pl_module.gpt, checkpoint)


def set_phase(gpt: GPT, progress: RunProgress) -> None:
    """Sets the order of layers for the next step of a model whose layers recur.

    Args:
        gpt: the model.
        progress: of the run after the last step, the same on all ranks. A run that is over has no next step:
            the model stays as it was trained.

    Raises:
        UserError: the order changes at a fraction of a run that has no end.
    """
    recurrence = gpt.config.recurrence
    if progress.fraction is None and recurrence is not None and recurrence.starts:
        limits = "clock.max_seconds or trainer.max_steps"
        raise UserError(f"model.gpt.recurrence.starts must be 0 in a run without {limits}")
    if progress.fraction != 1:
        gpt.at(progress.fraction or 0.0)


def restore_order(gpt: GPT, checkpoint: Mapping[str, Any]) -> None:
    """Gives a model the order of layers of the last step before a checkpoint."""
    gpt.at(0.0 if checkpoint.get("before_recurrence") is True else 1.0)
